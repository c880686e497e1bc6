/* How many more threads the system starts, asked before the OpenMP runtime needs them. */
#ifndef STARTABLE_H
#define STARTABLE_H

/* At most `wanted`; as many where that can't be found out. Calls of other threads wait here until have_started() says
 * that these are running: they would count the same ones. */
int startable(int wanted);
void have_started(void);

#endif

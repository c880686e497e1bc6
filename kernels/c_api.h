/* The table of the C interface, as the module hands it out, and what the module tells it. */
#ifndef C_API_H
#define C_API_H

#include "crossentropy.h"

extern const crossentropy_api c_api;

void c_api_begin(const char *isa_name, int threads);    /* before the first call; 0 threads: not asked for */
void c_api_has_forked(void);                            /* calls are on one thread from now on */

#endif

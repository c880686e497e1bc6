/* Rows whose few numbers are worked on together, in float64 lanes, because exp, log and divisions of one row alone are
 * slow beside the reading of its classes (docs/performance.md). */
#ifndef BATCH_H
#define BATCH_H

#define BATCH 16
#define MOST_LANES 16    /* of a vector */

typedef struct {
    double max[BATCH]; /* NaN: the row holds a NaN or +inf, or nothing but -inf (a logsumexp's own is kept) */
    double shift[BATCH], k[BATCH]; /* its anchor */
    double z[BATCH]; /* the logit at an index target, or -inf */
    double sum[BATCH], sum_error[BATCH], base[BATCH], own[BATCH]; /* rest = base + (sum + own e^z) / e^max */
    /* from here on by complete (complete.h); p where there are targets */
    double top[BATCH]; /* e^max at the anchor */
    double rest[BATCH]; /* the sum of e^(z - max) over every class but one at the maximum */
    double log_sum[BATCH]; /* log1p(rest) = lse - max */
    double log_sum_off[BATCH]; /* what that is short of, in float64 rows */
    double share[BATCH]; /* 1 / (1 + rest): the probability at the maximum */
    double unit[BATCH]; /* share / top: what e^z at the anchor is a probability times */
    double p[BATCH]; /* the probability of the target, */
    double below_1[BATCH]; /* and p - 1 */
} batch;

#endif

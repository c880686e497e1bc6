/* What XLA hands to a function that its programs call (JAX's jax.ffi), as far as xla.pxi needs it: the structures of its
 * C interface by their binary layout, so that nothing of XLA's is needed to compile. Its version 0.x only adds at the
 * ends of structures and gives their sizes, which are looked at before they are read. */
#ifndef XLA_FFI_H
#define XLA_FFI_H

#include <stddef.h>
#include <stdint.h>

typedef struct xla_error xla_error; /* NULL: none */

typedef struct xla_extension {
    size_t size;
    int type;
    struct xla_extension *next;
} xla_extension;

enum { XLA_METADATA = 1 }; /* the extension by which a handler is asked for its version, and not called */

typedef struct {
    size_t size;
    xla_extension *extension;
    int major, minor;
} xla_version;

typedef struct {
    size_t size;
    xla_extension *extension;
    const char *message;
    int code;
} xla_failure;

enum { XLA_INVALID_ARGUMENT = 3, XLA_RESOURCE_EXHAUSTED = 8 };

typedef struct {
    size_t size;
    xla_extension *extension;
    xla_version version;
    const void *internal;
    xla_error *(*create_error)(xla_failure *); /* and more, which nothing here calls */
} xla_api;

enum {
    XLA_S8 = 2,
    XLA_S16,
    XLA_S32,
    XLA_S64,
    XLA_U8,
    XLA_U16,
    XLA_U32,
    XLA_U64,
    XLA_F16,
    XLA_F32,
    XLA_F64,
    XLA_BF16 = 16
};

typedef struct {
    size_t size;
    xla_extension *extension;
    int type;
    void *data;
    int64_t dims;
    int64_t *shape;
} xla_buffer;

typedef struct {
    size_t size;
    xla_extension *extension;
    int64_t count;
    int *kinds;
    void **at; /* each an xla_buffer */
} xla_buffers;

typedef struct {
    const char *text;
    size_t length; /* without a 0 at the end */
} xla_text;

typedef struct {
    int type;
    void *value;
} xla_scalar;

enum { XLA_IS_SCALAR = 3 };

typedef struct {
    size_t size;
    xla_extension *extension;
    int64_t count;
    int *kinds;
    xla_text **names;
    void **at; /* an xla_scalar where the kind says so */
} xla_attributes;

typedef struct {
    size_t size;
    xla_extension *extension;
    const xla_api *api;
    void *context;
    int stage;
    xla_buffers arguments, results;
    xla_attributes attributes;
} xla_call;

typedef struct {
    size_t size;
    xla_version version; /* OUT */
    uint32_t traits; /* OUT */
} xla_metadata;

typedef struct {
    xla_extension base;
    xla_metadata *metadata;
} xla_metadata_query;

#endif

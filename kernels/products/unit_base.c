/* Compiled with the compiler's own flags. */
#define ISA base
#include "products/unit.h"

// Products of small bf16 matrices whose operands and result are in the first cache.
//
// Of C (rows x columns, fp32) (+)= A (rows x 2 pairs) B (2 pairs x columns), A lies as rows of words, and B as `pairs`
// rows of words, one word a column. A thread that multiplies has `Tiles` as long as it does.

#pragma once
#if defined(__AMX_BF16__) || defined(SOFT_TILES)
#define TILES
#include "multiply_amx.h"
#else
#include "multiply_avx512.h"
#endif

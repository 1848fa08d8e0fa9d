// Products of small bf16 matrices whose operands and result are in the first cache.
//
// They are made of squares of 32 x 32 numbers. One of a left operand is 32 rows of 16 words; one of a right operand 16
// rows of words, a word a column, the first 16 columns of all rows before the last 16; one of a result 32 rows of fp32
// numbers. `multiply` sums over `count` squares of each operand, so many words from one to the next. A thread that
// multiplies has `Tiles` as long as it does.

#pragma once
#include "bf16.h"

constexpr int SIDE = 32;              // rows, and columns, of a square
constexpr int DEPTH = SIDE / 2;       // words of a row: what one instruction of AMX sums over
constexpr int SQUARE = SIDE * DEPTH;  // words of an operand's square
constexpr int SUMS = SIDE * SIDE;     // numbers of a result's

#if defined(__AMX_BF16__) || defined(SOFT_TILES)
#define TILES
#include "multiply_amx.h"
#else
#include "multiply_avx512.h"
#endif

// Small products with AMX (see multiply.h): a thread has eight tiles of 16 rows of 64 bytes; one instruction adds to a
// tile of 16 x 16 sums the product of one of 16 x 32 numbers and one of 32 x 16 (Intel, "64 and IA-32 Architectures
// Software Developer's Manual", volume 1, chapter 18). Here tiles 0 to 3 are the sums of 32 x 32 numbers, 4 and 5 the
// left operand, 6 and 7 the right one.

#pragma once
#include "bf16.h"

#ifdef SOFT_TILES
#include "soft_tiles.h"
#else
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, from, row) _tile_loadd(tile, from, row)
#define TILE_LOAD_ONCE(tile, from, row) _tile_stream_loadd(tile, from, row)
#define TILE_STORE(tile, to, row) _tile_stored(tile, to, row)
#define TILE_MULTIPLY(sums, left, right) _tile_dpbf16ps(sums, left, right)

// Eight whole tiles. Static, as compilers that are told of the load's first bytes alone leave out writing the others.
alignas(64) static const struct {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
} TILE_SHAPES;

// Tiles for this thread; given back at the end, as threads that hold tiles are dearer to switch.
struct Tiles {
    Tiles() { _tile_loadconfig(&TILE_SHAPES); }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};
#endif

static inline void zero_tiles() {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}

// The sums from and to 32 rows of fp32 numbers, `row` of them apart.
static inline void load_tiles(const float* from, int64_t row) {
    TILE_LOAD(0, from, 4 * row);
    TILE_LOAD(1, from + 16, 4 * row);
    TILE_LOAD(2, from + 16 * row, 4 * row);
    TILE_LOAD(3, from + 16 * row + 16, 4 * row);
}

static inline void store_tiles(float* to, int64_t row) {
    TILE_STORE(0, to, 4 * row);
    TILE_STORE(1, to + 16, 4 * row);
    TILE_STORE(2, to + 16 * row, 4 * row);
    TILE_STORE(3, to + 16 * row + 16, 4 * row);
}

// Adds to the sums the product of a left operand's square, whose rows are so many bytes apart, and one of a right operand.
static inline __attribute__((always_inline)) void add_product(const void* left, int64_t row_bytes, const Word* right) {
    TILE_LOAD_ONCE(6, right, 64);
    TILE_LOAD(4, left, row_bytes);
    TILE_MULTIPLY(0, 4, 6);
    TILE_LOAD_ONCE(7, right + SQUARE / 2, 64);
    TILE_MULTIPLY(1, 4, 7);
    TILE_LOAD(5, static_cast<const char*>(left) + 16 * row_bytes, row_bytes);
    TILE_MULTIPLY(2, 5, 6);
    TILE_MULTIPLY(3, 5, 7);
}

// C (+)= A B.
static inline void multiply(int64_t count, const Word* left, int64_t left_step, const Word* right, int64_t right_step,
                            float* c, bool add) {
    if (add)
        load_tiles(c, SIDE);
    else
        zero_tiles();
    for (int64_t i = 0; i < count; ++i) add_product(left + i * left_step, 64, right + i * right_step);
    store_tiles(c, SIDE);
}

// Of larger products (products.h):
constexpr int PANEL = 32;
constexpr int TILE = SIDE;                    // rows of C that are summed at a time
constexpr int64_t TOKENS = 512;               // over which G' X is summed before the sums go to memory
constexpr int64_t BLOCK_TOKENS = 2 * TOKENS;  // for which one product after another is made
constexpr int64_t ROWS = 512;                 // that are taken through one product after another

// Pairs that so many rows are packed as.
static inline int64_t pairs_of(int64_t rows) { return (rows + 31) / 32 * DEPTH; }

// Where the word of a pair and a column lies among panels of so many pairs, and how far the next pair is: a panel is two
// tiles after two tiles.
static inline int64_t in_panels(int64_t pairs, int64_t pair, int64_t column) {
    return column / PANEL * PANEL * pairs + pair / 16 * 512 + column % PANEL / 16 * 256 + pair % 16 * 16 + column % 16;
}
constexpr int NEXT_PAIR = 16;

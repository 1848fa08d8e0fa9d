// Small products with AMX (see multiply.h): a thread has eight tiles of 16 rows of 64 bytes; one instruction adds to a
// tile of 16 x 16 sums the product of one of 16 x 32 numbers and one of 32 x 16 (Intel, "64 and IA-32 Architectures
// Software Developer's Manual", volume 1, chapter 18). Here tiles 0 to 3 are the sums of 32 x 32 numbers, 4 and 5 the
// left operand, 6 and 7 the right one.

#pragma once
#include "bf16.h"

constexpr int SIDE = 32;  // rows, and columns, of the sums
constexpr int DEPTH = 16;  // pairs that one instruction sums over

#ifdef SOFT_TILES
#include "soft_tiles.h"
#else
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, from, row) _tile_loadd(tile, from, row)
#define TILE_LOAD_ONCE(tile, from, row) _tile_stream_loadd(tile, from, row)
#define TILE_STORE(tile, to, row) _tile_stored(tile, to, row)
#define TILE_MULTIPLY(sums, left, right) _tile_dpbf16ps(sums, left, right)

// Eight whole tiles for this thread; given back at the end, as threads that hold tiles are dearer to switch.
struct Tiles {
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shapes;
        _tile_loadconfig(&shapes);
    }
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

// C (+)= A B; rows and columns must be multiples of 32, pairs of 16.
static void multiply(int rows, int columns, int pairs, const Word* a, int a_row, const Word* b, int b_row, float* c,
                     int c_row, bool add) {
    for (int m = 0; m < rows; m += SIDE)
        for (int n = 0; n < columns; n += SIDE) {
            float* to = c + m * c_row + n;
            if (add)
                load_tiles(to, c_row);
            else
                zero_tiles();
            for (int p = 0; p < pairs; p += DEPTH) {
                const Word *left = a + m * a_row + p, *right = b + p * b_row + n;
                TILE_LOAD(6, right, 4 * b_row);
                TILE_LOAD(4, left, 4 * a_row);
                TILE_MULTIPLY(0, 4, 6);
                TILE_LOAD(7, right + 16, 4 * b_row);
                TILE_MULTIPLY(1, 4, 7);
                TILE_LOAD(5, left + 16 * a_row, 4 * a_row);
                TILE_MULTIPLY(2, 5, 6);
                TILE_MULTIPLY(3, 5, 7);
            }
            store_tiles(to, c_row);
        }
}

// Of larger products (products.h):
constexpr int PANEL = 32;
constexpr int TILE = SIDE;                    // rows of C that are summed at a time
constexpr int64_t TOKENS = 512;               // over which G' X is summed before the sums go to memory
constexpr int64_t BLOCK_TOKENS = 8 * TOKENS;  // for which one product after another is made
constexpr int64_t ROWS = 512;                 // that are taken through one product after another

// Pairs that so many rows are packed as.
static inline int64_t pairs_of(int64_t rows) { return (rows + 31) / 32 * DEPTH; }

// Where the word of a pair and a column lies among panels of so many pairs, and how far the next pair is: a panel is two
// tiles after two tiles.
static inline int64_t in_panels(int64_t pairs, int64_t pair, int64_t column) {
    return column / PANEL * PANEL * pairs + pair / 16 * 512 + column % PANEL / 16 * 256 + pair % 16 * 16 + column % 16;
}
constexpr int NEXT_PAIR = 16;

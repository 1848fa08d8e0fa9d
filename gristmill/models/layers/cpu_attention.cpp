// Attention in blocks of queries and keys whose scores never leave the first cache (Dao et al. 2022, arXiv:2205.14135;
// 2023, arXiv:2307.08691), in bf16 with sums in fp32. One thread a head.
//
// Scores lie with keys as rows and queries as columns: the softmax's maxima and sums run down columns, sixteen queries
// at a time, and weights are already the left operand of the products that sum over queries. All is in squares of
// multiply.h, and the scores of the next squares are made before the softmax of these, so that a processor that
// multiplies beside its other work does both at once.

#include <algorithm>
#include <cmath>
#include <vector>

#include "multiply.h"

namespace {

constexpr int STRIP = 4;  // squares of keys whose softmax is taken at once
constexpr int RECTANGLE = 8;  // squares of queries, and of keys, that are summed over at once for gradients
constexpr float HIDDEN = -1e30f;
constexpr float LOWEST = -1e20f;  // below every score, and so far above HIDDEN that what is hidden weighs nothing
constexpr float LOG2E = 1.4426950408889634f;

struct Sizes {
    int64_t batch, heads, kv_heads, time, dim;
    // Squares along time, and along channels.
    int64_t blocks() const { return (time + SIDE - 1) / SIDE; }
    int64_t deep() const { return dim / SIDE; }
    // Of a square of rows: how many there are.
    int present(int64_t block) const { return int(std::min<int64_t>(SIDE, time - block * SIDE)); }
};

// Of one head: (time x dim), so many numbers from one time to the next.
struct Matrix {
    static constexpr int64_t AHEAD = 12;  // rows that are on their way to the first cache
    Bf16* at;
    int64_t row;

    // Fetches what rows after this one hold; `write`: to be written.
    template <bool write>
    void fetch_after(int64_t time, int64_t dim) const {
        for (int64_t d = 0; d < dim; d += 32) __builtin_prefetch(at + (time + AHEAD) * row + d, write);
    }
};

// A tensor of heads: how many numbers from one to the next of its rows, heads and times; channels lie side by side.
struct Heads {
    Bf16* at;
    const int64_t* strides;
    Matrix of(int64_t row, int64_t head) const { return {at + row * strides[0] + head * strides[1], strides[2]}; }
};

// Channels of a row, taken as words: numbers with an even place apart from those with an odd one, which no instruction
// has to bring together. STEP of them are taken at a time from each half of the row.
template <int STEP>
struct Channels {
    static constexpr __mmask16 WORDS = STEP == SIDE ? 0xffff : 0x00ff;

    static __m512i load(const Bf16* from) { return _mm512_maskz_loadu_epi32(WORDS, from); }
    static __m512 load(const float* from) { return _mm512_maskz_loadu_ps(WORDS, from); }
    template <typename To>
    static void store(To* to, __m512i x) {
        _mm512_mask_storeu_epi32(to, WORDS, x);
    }
    // Where a channel is among squares of operands' rows; of results, whose even channels lie before the odd ones.
    static int64_t in_operand(int64_t channel) { return channel / SIDE * SQUARE + channel % SIDE / 2; }
    static int64_t in_sums(int64_t channel) { return channel / SIDE * SUMS + channel % SIDE / 2; }
};

// `use` with the steps that rows of `dim` channels allow.
template <typename Use>
void with_channels(int64_t dim, Use use) {
    if (dim % (2 * SIDE) == 0)
        use(Channels<SIDE>());
    else
        use(Channels<SIDE / 2>());
}

// Cosines and sines of rotary positions: for each time and step of channels, cosines of the even and the odd ones, then
// sines. The channels i and dim / 2 + i of a row are a pair (Su et al. 2021, arXiv:2104.09864). Null where nothing turns.
struct Angles {
    const float* at = nullptr;
    int64_t dim = 0;

    explicit operator bool() const { return at != nullptr; }
    Angles from(int64_t time) const { return at ? Angles{at + time * dim, dim} : *this; }

    // Even or odd numbers of both halves, turned by their angles; backwards for gradients.
    template <int STEP>
    void turn(Channels<STEP> of, int64_t time, int64_t channel, int odd, bool back, __m512& first, __m512& second) const {
        const float* own = at + time * dim + 2 * channel + odd * STEP / 2;
        const __m512 c = of.load(own), s = of.load(own + STEP);
        const __m512 along = _mm512_mul_ps(first, c), across = _mm512_mul_ps(first, s);
        first = back ? _mm512_fmadd_ps(second, s, along) : _mm512_fnmadd_ps(second, s, along);
        second = back ? _mm512_fmsub_ps(second, c, across) : _mm512_fmadd_ps(second, c, across);
    }

    // One time's, from rows of `dim` cosines and sines whose halves are equal.
    template <int STEP>
    static void arrange(Channels<STEP>, int64_t dim, const float* cos, const float* sin, float* to) {
        for (int64_t d = 0; d < dim / 2; d += STEP)
            for (const float* from : {cos + d, sin + d})
                for (int odd = 0; odd < 2; ++odd)
                    for (int i = 0; i < STEP; i += 2) *to++ = from[i + odd];
    }
};

// A row, turned, to the rows of squares.
template <int STEP>
inline void turn_row(Channels<STEP> of, int64_t dim, const Angles& angles, int64_t time, const Bf16* from, Word* to) {
    for (int64_t d = 0; d < dim / 2; d += STEP) {
        const int64_t half = dim / 2 + d;
        __m512i first = of.load(from + d), second = of.load(from + half);
        if (angles) {
            __m512 even[2] = {lower(first), lower(second)}, odd[2] = {higher(first), higher(second)};
            angles.turn(of, time, d, 0, false, even[0], even[1]);
            angles.turn(of, time, d, 1, false, odd[0], odd[1]);
            first = join(even[0], odd[0]), second = join(even[1], odd[1]);
        }
        of.store(to + of.in_operand(d), first);
        of.store(to + of.in_operand(half), second);
    }
}

// A row of results, times a factor and turned back, to bf16.
template <int STEP>
inline void store_turned_back(Channels<STEP> of, int64_t dim, const Angles& angles, int64_t time, const float* from,
                              float factor, Bf16* to) {
    const __m512 by = _mm512_set1_ps(factor);
    for (int64_t d = 0; d < dim / 2; d += STEP) {
        const int64_t half = dim / 2 + d;
        __m512 first[2], second[2];
        for (int odd = 0; odd < 2; ++odd) {
            const float* at = from + odd * SIDE / 2;
            first[odd] = _mm512_mul_ps(of.load(at + of.in_sums(d)), by);
            second[odd] = _mm512_mul_ps(of.load(at + of.in_sums(half)), by);
            if (angles) angles.turn(of, time, d, odd, true, first[odd], second[odd]);
        }
        of.store(to + d, join(first[0], first[1]));
        of.store(to + half, join(second[0], second[1]));
    }
}

// The operands that a matrix (time x dim) is used as: each squares of time, and in each of them those of channels. What
// is summed over time has in a word the numbers of times p and 16 + p, and even channels before odd ones.
struct Operand {
    enum As { ROWS = 1, TURNED = 2, PAIRED = 4, ACROSS = 8 };
    Buffer<Word> rows;    // left, summed over channels
    Buffer<Word> turned;  // right, summed over channels
    Buffer<Word> paired;  // right, summed over time
    Buffer<Word> across;  // left, summed over time: a row a channel

    Operand(const Sizes& sizes, const Angles& angles, const Matrix& from, int as) {
        const int64_t size = sizes.deep() * SQUARE, all = sizes.blocks() * size;
        rows = buffer<Word>(as & ROWS ? all : size);
        if (as & TURNED) turned = buffer<Word>(all);
        if (as & (PAIRED | ACROSS)) paired = buffer<Word>(as & PAIRED ? all : size);
        if (as & ACROSS) across = buffer<Word>(all);
        for (int64_t i = 0; i < sizes.blocks(); ++i) {
            Word* own = rows.get() + (as & ROWS ? i * size : 0);
            const int present = sizes.present(i);
            const Angles here = angles.from(i * SIDE);
            if (present < SIDE) std::memset(own, 0, size * sizeof(Word));
            with_channels(sizes.dim, [&](auto channels) {
                for (int r = 0; r < present; ++r) {
                    from.fetch_after<false>(i * SIDE + r, sizes.dim);
                    turn_row(channels, sizes.dim, here, r, from.at + (i * SIDE + r) * from.row, own + r * DEPTH);
                }
            });
            for (int64_t d = 0; d < size; d += SQUARE)
                for (int half = 0; half < 2; ++half) {
                    const int64_t part = half * SQUARE / 2, to = i * size + d + part;
                    if (turned) transpose16(own + d + part, DEPTH, turned.get() + to, 16);
                    if (!paired) continue;
                    Word* pairs = paired.get() + (as & PAIRED ? to : d + part);
                    pair_rows(own + d, half, pairs);
                    if (across) transpose16(pairs, 16, across.get() + to, DEPTH);
                }
        }
    }

private:
    // Of a square of rows, the even or the odd channels.
    static void pair_rows(const Word* from, int odd, Word* to) {
        const __m512i upper = _mm512_set1_epi32(int(0xffff0000));
        for (int p = 0; p < DEPTH; ++p, from += DEPTH, to += 16) {
            const __m512i one = _mm512_load_si512(from), other = _mm512_load_si512(from + SQUARE / 2);
            const __m512i low = odd ? _mm512_srli_epi32(one, 16) : one;
            const __m512i high = odd ? other : _mm512_slli_epi32(other, 16);
            _mm512_store_si512(to, _mm512_ternarylogic_epi32(upper, high, low, 0xca));
        }
    }
};

// Which keys a query sees: at or before it (causal), nearer than the window, of its own document.
class Mask {
    bool causal;
    int64_t window;            // 0: none
    const int32_t* documents;  // of one row, (time,), or null
    int64_t time;
    std::vector<int32_t> lowest, highest;  // documents of a square

public:
    Mask(bool causal, int64_t window, const int32_t* documents, const Sizes& sizes)
        : causal(causal), window(window), documents(documents), time(sizes.time) {
        for (int64_t i = 0; documents && i < sizes.blocks(); ++i) {
            const int32_t* first = documents + i * SIDE;
            const auto found = std::minmax_element(first, first + sizes.present(i));
            lowest.push_back(*found.first), highest.push_back(*found.second);
        }
    }

    // Whether a square of queries sees one of keys in any place; in all.
    bool some(int64_t queries, int64_t keys) const {
        int64_t q0 = queries * SIDE, k0 = keys * SIDE;
        int64_t q1 = std::min(q0 + SIDE, time) - 1, k1 = std::min(k0 + SIDE, time) - 1;
        if (causal && k0 > q1) return false;
        if (window && (q0 - k1 >= window || (!causal && k0 - q1 >= window))) return false;
        return !documents || (lowest[queries] <= highest[keys] && lowest[keys] <= highest[queries]);
    }
    bool all(int64_t queries, int64_t keys) const {
        int64_t q0 = queries * SIDE, k0 = keys * SIDE;
        int64_t q1 = std::min(q0 + SIDE, time) - 1, k1 = k0 + SIDE - 1;
        if (k1 >= time || (causal && k1 > q0) || (window && std::max(q1 - k0, k1 - q0) >= window)) return false;
        return !documents || (lowest[queries] == highest[queries] && lowest[keys] == highest[keys] &&
                              lowest[queries] == lowest[keys]);
    }

    // Hide scores (keys x queries) of a square.
    void hide(int64_t queries, int64_t keys, float* scores) const {
        __m512i step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int n = 0; n < SIDE; n += 16) {
            int64_t first = queries * SIDE + n;
            __m512i own = _mm512_add_epi32(_mm512_set1_epi32(int(first)), step), of_queries = own;
            if (documents) {
                __mmask16 there = first + 16 <= time ? 0xffff : first < time ? (1u << (time - first)) - 1 : 0;
                of_queries = _mm512_maskz_loadu_epi32(there, documents + std::min(first, time - 1));
            }
            for (int r = 0; r < SIDE; ++r) {
                int64_t key = keys * SIDE + r;
                __mmask16 seen = key < time ? 0xffff : 0;
                __m512i ahead = _mm512_sub_epi32(own, _mm512_set1_epi32(int(key)));
                if (causal) seen &= _mm512_cmpge_epi32_mask(ahead, _mm512_setzero_si512());
                if (window) seen &= _mm512_cmplt_epi32_mask(_mm512_abs_epi32(ahead), _mm512_set1_epi32(int(window)));
                if (documents && key < time)
                    seen &= _mm512_cmpeq_epi32_mask(of_queries, _mm512_set1_epi32(documents[key]));
                float* at = scores + r * SIDE + n;
                _mm512_store_ps(at, _mm512_mask_mov_ps(_mm512_set1_ps(HIDDEN), seen, _mm512_load_ps(at)));
            }
        }
    }
};

// Squares from `first` to before `last`.
struct Range {
    int64_t first = INT64_MAX, last = 0;
    void with(int64_t block) { first = std::min(first, block), last = std::max(last, block + 1); }
    bool has(int64_t block) const { return first <= block && block < last; }
    int64_t count() const { return std::max<int64_t>(0, last - first); }
};

// Squares of (dim x queries) of fp32, each column times its factor, to rows of bf16, turned back.
void store_columns(const Sizes& sizes, int64_t block, const float* columns, const float* factors, const Angles& angles,
                   const Matrix& to, float* turned) {
    const Word* from = reinterpret_cast<const Word*>(columns);
    for (int64_t d = 0; d < sizes.deep() * SUMS; d += SUMS)
        for (int row = 0; row < SIDE; row += 16)
            for (int column = 0; column < SIDE; column += 16)
                transpose16(from + d + row * SIDE + column, SIDE,
                            reinterpret_cast<Word*>(turned) + d + column * SIDE + row, SIDE);
    const Angles own = angles.from(block * SIDE);
    with_channels(sizes.dim, [&](auto channels) {
        for (int r = 0; r < sizes.present(block); ++r) {
            to.fetch_after<true>(block * SIDE + r, sizes.dim);
            store_turned_back(channels, sizes.dim, own, r, turned + r * SIDE, factors[r],
                              to.at + (block * SIDE + r) * to.row);
        }
    });
}

// Squares of (time x dim) of fp32, times a factor, to rows of bf16, turned back.
void store_rows(const Sizes& sizes, const Angles& angles, const float* sums, float factor, const Matrix& to) {
    with_channels(sizes.dim, [&](auto channels) {
        for (int64_t t = 0; t < sizes.time; ++t) {
            to.fetch_after<true>(t, sizes.dim);
            store_turned_back(channels, sizes.dim, angles, t, sums + t / SIDE * SIDE * sizes.dim + t % SIDE * SIDE,
                              factor, to.at + t * to.row);
        }
    });
}

// A square of queries and some of keys.
struct Strip {
    int64_t queries, keys, count;
    bool begins, ends;  // is the first, is the last, of its queries
};

std::vector<Strip> strips(const Sizes& sizes, const Mask& mask) {
    std::vector<Strip> found;
    for (int64_t i = 0; i < sizes.blocks(); ++i) {
        Range seen;
        for (int64_t j = 0; j < sizes.blocks(); ++j)
            if (mask.some(i, j)) seen.with(j);
        for (int64_t j = seen.first; j < seen.last; j += STRIP)
            found.push_back({i, j, std::min<int64_t>(STRIP, seen.last - j), j == seen.first, j + STRIP >= seen.last});
    }
    return found;
}

void forward_head(const Sizes& sizes, const Mask& mask, const Angles& angles, float scale, const Matrix& q_,
                  const Matrix& k, const Matrix& v, const Matrix& out, float* log_sums) {
    const int64_t deep = sizes.deep(), size = deep * SQUARE;
    const Operand q(sizes, angles, q_, Operand::TURNED), keys(sizes, angles, k, Operand::ROWS);
    const Operand values(sizes, Angles{}, v, Operand::ACROSS);
    auto scores = buffer<float>(2 * STRIP * SUMS), mixed = buffer<float>(deep * SUMS);
    auto turned = buffer<float>(deep * SUMS);
    auto weights = buffer<Word>(STRIP * SQUARE);
    const __m512 unit = _mm512_set1_ps(scale * LOG2E);
    const std::vector<Strip> all = strips(sizes, mask);

    auto score = [&](size_t n, int64_t c) {
        const Strip& strip = all[n];
        multiply(deep, keys.rows.get() + (strip.keys + c) * size, SQUARE, q.turned.get() + strip.queries * size, SQUARE,
                 scores.get() + (n % 2 * STRIP + c) * SUMS, false);
    };
    for (int64_t c = 0; c < all[0].count; ++c) score(0, c);
    __m512 largest[2], sums[2];
    for (size_t n = 0; n < all.size(); ++n) {
        const Strip& strip = all[n];
        const int64_t next = n + 1 < all.size() ? all[n + 1].count : 0;
        float* own = scores.get() + n % 2 * STRIP * SUMS;
        for (int64_t c = 0; c < strip.count; ++c)
            if (!mask.all(strip.queries, strip.keys + c)) mask.hide(strip.queries, strip.keys + c, own + c * SUMS);
        __m512 tops[2][2], offset[2];
        for (auto& top : tops) top[0] = top[1] = _mm512_set1_ps(LOWEST);
        for (int64_t r = 0; r < strip.count * SIDE; r += 2)
            for (int half = 0; half < 2; ++half)
                for (int odd = 0; odd < 2; ++odd)
                    tops[half][odd] = _mm512_max_ps(tops[half][odd], _mm512_load_ps(own + (r + odd) * SIDE + 16 * half));
        for (int half = 0; half < 2; ++half) {
            if (strip.begins) largest[half] = _mm512_set1_ps(LOWEST), sums[half] = _mm512_setzero_ps();
            const __m512 top = _mm512_max_ps(largest[half], _mm512_max_ps(tops[half][0], tops[half][1]));
            if (!strip.begins && _mm512_cmpneq_ps_mask(top, largest[half])) {
                __m512 shrink = exp2_16(_mm512_mul_ps(_mm512_sub_ps(largest[half], top), unit));
                sums[half] = _mm512_mul_ps(sums[half], shrink);
                for (int64_t d = 0; d < sizes.dim; ++d) {
                    float* at = mixed.get() + d * SIDE + 16 * half;
                    _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), shrink));
                }
            }
            largest[half] = top;
            offset[half] = _mm512_mul_ps(top, unit);
        }
        for (int64_t c = 0; c < std::max(strip.count, next); ++c) {
            if (c < next) score(n + 1, c);
            if (c >= strip.count) continue;
            for (int half = 0; half < 2; ++half) {
                const float* column = own + c * SUMS + 16 * half;
                Word* to = weights.get() + c * SQUARE + half * SQUARE / 2;
                __m512 first_sum = _mm512_setzero_ps(), second_sum = first_sum;
                for (int r = 0; r < DEPTH; ++r) {
                    const float* at = column + r * SIDE;
                    __m512 first = exp2_16(_mm512_fmsub_ps(_mm512_load_ps(at), unit, offset[half]));
                    __m512 second = exp2_16(_mm512_fmsub_ps(_mm512_load_ps(at + DEPTH * SIDE), unit, offset[half]));
                    first_sum = _mm512_add_ps(first_sum, first), second_sum = _mm512_add_ps(second_sum, second);
                    _mm512_store_si512(to + r * 16, join(first, second));
                }
                sums[half] = _mm512_add_ps(sums[half], _mm512_add_ps(first_sum, second_sum));
            }
        }
        for (int64_t d = 0; d < deep; ++d)
            multiply(strip.count, values.across.get() + strip.keys * size + d * SQUARE, size, weights.get(), SQUARE,
                     mixed.get() + d * SUMS, !strip.begins);
        if (!strip.ends) continue;
        alignas(64) float logs[SIDE], offsets[SIDE], factors[SIDE];
        for (int half = 0; half < 2; ++half) {
            _mm512_store_ps(factors + 16 * half, _mm512_div_ps(_mm512_set1_ps(1), sums[half]));
            _mm512_store_ps(logs + 16 * half, sums[half]);
            _mm512_store_ps(offsets + 16 * half, offset[half]);
        }
        store_columns(sizes, strip.queries, mixed.get(), factors, Angles{}, out, turned.get());
        for (int r = 0; r < sizes.present(strip.queries); ++r)
            log_sums[strip.queries * SIDE + r] = offsets[r] + std::log2(logs[r]);
    }
}

struct Given {
    Matrix q, out, slope;
    const float* log_sums;
    Matrix dq;
};

// Squares of weights and of gradients of scores, of some queries and keys.
struct Squares {
    static constexpr int64_t ROW = RECTANGLE * SQUARE;
    Buffer<Word> weights = buffer<Word>(RECTANGLE * ROW);  // left, summed over queries: a row of squares for one of keys
    Buffer<Word> steps = buffer<Word>(RECTANGLE * ROW);
    Buffer<Word> paired = buffer<Word>(RECTANGLE * ROW);  // steps: right, summed over keys: a row for one of queries
};

// From scores and gradients of weights (keys x queries) to weights and gradients of scores.
void slope_square(const float* scores, const float* slopes, __m512 unit, const float* logs, const float* inner,
                  Word* weights, Word* steps, Word* paired) {
    __m512 log[2], own[2];
    for (int half = 0; half < 2; ++half)
        log[half] = _mm512_load_ps(logs + 16 * half), own[half] = _mm512_load_ps(inner + 16 * half);
    for (int r = 0; r < DEPTH; ++r) {
        __m512i step[2][2];  // of rows r and 16 + r
        for (int row = 0; row < 2; ++row) {
            __m512i weight[2];
            for (int half = 0; half < 2; ++half) {
                const int at = (r + row * DEPTH) * SIDE + 16 * half;
                const __m512 found = exp2_16(_mm512_fmsub_ps(_mm512_load_ps(scores + at), unit, log[half]));
                weight[half] = raised(found);
                step[row][half] = raised(_mm512_mul_ps(found, _mm512_sub_ps(_mm512_load_ps(slopes + at), own[half])));
            }
            _mm512_store_si512(weights + (r + row * DEPTH) * DEPTH, join(weight[0], weight[1]));
            _mm512_store_si512(steps + (r + row * DEPTH) * DEPTH, join(step[row][0], step[row][1]));
        }
        for (int half = 0; half < 2; ++half)
            _mm512_store_si512(paired + half * SQUARE / 2 + r * 16, join(step[0][half], step[1][half]));
    }
}

// Adds what one head of queries gives to the gradients of its keys and values, squares of fp32.
void backward_head(const Sizes& sizes, const Mask& mask, const Angles& angles, float scale, const Given& given,
                   const Operand& keys, const Operand& values, float* dk, float* dv) {
    const int64_t blocks = sizes.blocks(), deep = sizes.deep(), size = deep * SQUARE, sums = deep * SUMS;
    const int both = Operand::TURNED | Operand::PAIRED;
    const Operand q(sizes, angles, given.q, both), slope(sizes, Angles{}, given.slope, both);
    auto dq = buffer<float>(blocks * sums);  // (dim x queries)
    std::memset(dq.get(), 0, blocks * sums * sizeof(float));
    auto logs = buffer<float>(blocks * SIDE), inner = buffer<float>(blocks * SIDE);
    auto scores = buffer<float>(2 * SUMS), slopes = buffer<float>(2 * SUMS), turned = buffer<float>(sums);
    Squares squares;
    const __m512 unit = _mm512_set1_ps(scale * LOG2E);

    for (int64_t t = 0; t < blocks * SIDE; ++t) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t d = 0; d < sizes.dim && t < sizes.time; d += SIDE)
            sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(given.out.at + t * given.out.row + d),
                                   (__m512bh)_mm512_loadu_si512(given.slope.at + t * given.slope.row + d));
        inner[t] = _mm512_reduce_add_ps(sum);
        logs[t] = t < sizes.time ? given.log_sums[t] : 0;
    }
    struct Place {
        int64_t queries, keys;
    };
    std::vector<Place> places;
    for (int64_t left = 0; left < blocks; left += RECTANGLE)
        for (int64_t top = 0; top < blocks; top += RECTANGLE) {
            // keys from `left` on, queries from `top` on
            const int64_t right = std::min(left + RECTANGLE, blocks), bottom = std::min(top + RECTANGLE, blocks);
            Range of_keys[RECTANGLE], of_queries[RECTANGLE];
            for (int64_t j = left; j < right; ++j)
                for (int64_t i = top; i < bottom; ++i)
                    if (mask.some(i, j)) of_keys[j - left].with(i), of_queries[i - top].with(j);
            places.clear();
            for (int64_t j = left; j < right; ++j)
                for (int64_t i = top; i < bottom; ++i)
                    if (of_keys[j - left].has(i) || of_queries[i - top].has(j)) places.push_back({i, j});
            auto score = [&](size_t n) {
                const auto [i, j] = places[n];
                multiply(deep, keys.rows.get() + j * size, SQUARE, q.turned.get() + i * size, SQUARE,
                         scores.get() + n % 2 * SUMS, false);
                multiply(deep, values.rows.get() + j * size, SQUARE, slope.turned.get() + i * size, SQUARE,
                         slopes.get() + n % 2 * SUMS, false);
            };
            if (!places.empty()) score(0);
            for (size_t n = 0; n < places.size(); ++n) {
                const auto [i, j] = places[n];
                if (n + 1 < places.size()) score(n + 1);
                float* own = scores.get() + n % 2 * SUMS;
                if (!mask.all(i, j)) mask.hide(i, j, own);
                const int64_t row = (j - left) * Squares::ROW + (i - top) * SQUARE;
                slope_square(own, slopes.get() + n % 2 * SUMS, unit, logs.get() + i * SIDE, inner.get() + i * SIDE,
                             squares.weights.get() + row, squares.steps.get() + row,
                             squares.paired.get() + (i - top) * Squares::ROW + (j - left) * SQUARE);
            }
            for (int64_t d = 0; d < deep; ++d) {
                auto add = [&](const Buffer<Word>& of, const Operand& operand, float* to) {
                    for (int64_t j = left; j < right; ++j)
                        if (const Range& seen = of_keys[j - left]; seen.count())
                            multiply(seen.count(), of.get() + (j - left) * Squares::ROW + (seen.first - top) * SQUARE,
                                     SQUARE, operand.paired.get() + seen.first * size + d * SQUARE, size,
                                     to + j * sums + d * SUMS, true);
                };
                add(squares.weights, slope, dv);
                add(squares.steps, q, dk);
            }
            for (int64_t d = 0; d < deep; ++d)
                for (int64_t i = top; i < bottom; ++i)
                    if (const Range& seen = of_queries[i - top]; seen.count())
                        multiply(seen.count(), keys.across.get() + seen.first * size + d * SQUARE, size,
                                 squares.paired.get() + (i - top) * Squares::ROW + (seen.first - left) * SQUARE, SQUARE,
                                 dq.get() + i * sums + d * SUMS, true);
        }
    float factors[SIDE];
    std::fill(factors, factors + SIDE, scale);
    for (int64_t i = 0; i < blocks; ++i)
        store_columns(sizes, i, dq.get() + i * sums, factors, angles, given.dq, turned.get());
}

// Cosines and sines as `Angles` wants them, of all rows, which may share theirs.
struct Arranged {
    Buffer<float> all;
    int64_t dim, row;

    Arranged(const Sizes& sizes, const float* cos, const float* sin, int64_t angles_row)
        : all(buffer<float>(cos ? (angles_row ? sizes.batch : 1) * sizes.time * sizes.dim : 0)),
          dim(cos ? sizes.dim : 0), row(angles_row) {
        const int64_t times = !cos ? 0 : angles_row ? sizes.batch * sizes.time : sizes.time;
#pragma omp parallel for schedule(static)
        for (int64_t t = 0; t < times; ++t)
            with_channels(dim, [&](auto channels) {
                Angles::arrange(channels, dim, cos + t * dim, sin + t * dim, all.get() + t * dim);
            });
    }
    Angles of(int64_t batch_row) const { return dim ? Angles{all.get() + batch_row * row, dim} : Angles{}; }
};

// `work` for every item, by a thread that has tiles.
template <typename Work>
void share_out(int64_t items, Work work) {
#pragma omp parallel
    {
        Tiles tiles;
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < items; ++item) work(item);
    }
}

}  // namespace

// sizes: batch, heads, kv_heads, time, dim. strides: of row, head and time, of each tensor in turn, in numbers; channels
// lie side by side. cos, sin: (batch or 1, time, dim), `angles_row` from row to row, by which queries and keys are
// turned, or null. documents: (batch, time) or null. log_sums: (batch, heads, time), base 2.
extern "C" void attention_forward(Bf16* q_, Bf16* k_, Bf16* v_, Bf16* out_, float* log_sums, const float* cos,
                                  const float* sin, int64_t angles_row, const int64_t* sizes_, const int64_t* strides,
                                  const int32_t* documents, int64_t causal, int64_t window, double scale) {
    const Sizes sizes{sizes_[0], sizes_[1], sizes_[2], sizes_[3], sizes_[4]};
    const Heads q{q_, strides}, k{k_, strides + 3}, v{v_, strides + 6}, out{out_, strides + 9};
    const int64_t group = sizes.heads / sizes.kv_heads;
    const Arranged arranged(sizes, cos, sin, angles_row);
    share_out(sizes.batch * sizes.heads, [&](int64_t item) {
        const int64_t row = item / sizes.heads, head = item % sizes.heads, shared = head / group;
        const Mask mask(causal != 0, window, documents ? documents + row * sizes.time : nullptr, sizes);
        forward_head(sizes, mask, arranged.of(row), float(scale), q.of(row, head), k.of(row, shared), v.of(row, shared),
                     out.of(row, head), log_sums + item * sizes.time);
    });
}

// strides: of q, k, v, out, slope, dq, dk, dv. slope: the gradient of `out`.
extern "C" void attention_backward(Bf16* q_, Bf16* k_, Bf16* v_, Bf16* out_, const float* log_sums, Bf16* slope_,
                                   Bf16* dq_, Bf16* dk_, Bf16* dv_, const float* cos, const float* sin,
                                   int64_t angles_row, const int64_t* sizes_, const int64_t* strides,
                                   const int32_t* documents, int64_t causal, int64_t window, double scale) {
    const Sizes sizes{sizes_[0], sizes_[1], sizes_[2], sizes_[3], sizes_[4]};
    const Heads q{q_, strides}, k{k_, strides + 3}, v{v_, strides + 6}, out{out_, strides + 9};
    const Heads slope{slope_, strides + 12}, dq{dq_, strides + 15}, dk{dk_, strides + 18}, dv{dv_, strides + 21};
    const int64_t group = sizes.heads / sizes.kv_heads, numbers = sizes.blocks() * SIDE * sizes.dim;
    const Arranged arranged(sizes, cos, sin, angles_row);
    share_out(sizes.batch * sizes.kv_heads, [&](int64_t item) {
        const int64_t row = item / sizes.kv_heads, shared = item % sizes.kv_heads;
        const Angles angles = arranged.of(row);
        const Mask mask(causal != 0, window, documents ? documents + row * sizes.time : nullptr, sizes);
        const Operand keys(sizes, angles, k.of(row, shared), Operand::ROWS | Operand::ACROSS);
        const Operand values(sizes, Angles{}, v.of(row, shared), Operand::ROWS);
        auto key_sums = buffer<float>(numbers), value_sums = buffer<float>(numbers);
        std::memset(key_sums.get(), 0, numbers * sizeof(float));
        std::memset(value_sums.get(), 0, numbers * sizeof(float));
        for (int64_t head = shared * group; head < (shared + 1) * group; ++head) {
            const Given given{q.of(row, head), out.of(row, head), slope.of(row, head),
                              log_sums + (row * sizes.heads + head) * sizes.time, dq.of(row, head)};
            backward_head(sizes, mask, angles, float(scale), given, keys, values, key_sums.get(), value_sums.get());
        }
        store_rows(sizes, angles, key_sums.get(), float(scale), dk.of(row, shared));
        store_rows(sizes, Angles{}, value_sums.get(), 1.0f, dv.of(row, shared));
    });
}

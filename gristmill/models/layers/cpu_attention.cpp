// Attention in blocks of queries and keys whose scores never leave the first cache (Dao et al. 2022, arXiv:2205.14135;
// 2023, arXiv:2307.08691), in bf16 with sums in fp32. One thread a head.
//
// Scores lie with keys as rows and queries as columns: the softmax's maxima and sums run down columns, sixteen queries
// at a time, and weights are already the left operand of the products that sum over queries.

#include <algorithm>
#include <cmath>

#include "multiply.h"

namespace {

constexpr int BLOCK = 64;  // queries, and keys, that are treated at a time
constexpr float HIDDEN = -1e30f;
constexpr float LOWEST = -1e20f;  // below every score, and so far above HIDDEN that what is hidden weighs nothing
constexpr float LOG2E = 1.4426950408889634f;

struct Sizes {
    int64_t batch, heads, kv_heads, time, dim;
    int64_t blocks() const { return (time + BLOCK - 1) / BLOCK; }
};

struct Strides {
    int64_t row, head, time;
};

// Cosines and sines of rotary positions, (time x dim) of fp32 whose halves are equal; null where nothing is turned. The
// channels i and dim / 2 + i of a row are a pair (Su et al. 2021, arXiv:2104.09864).
struct Angles {
    const float *cos = nullptr, *sin = nullptr;
    int64_t dim = 0;

    explicit operator bool() const { return cos != nullptr; }
    // Both numbers of sixteen pairs, turned by their angles at `time`; backwards for gradients.
    void turn(int64_t time, int64_t channel, bool back, __m512& first, __m512& second) const {
        const __m512 c = _mm512_loadu_ps(cos + time * dim + channel), s = _mm512_loadu_ps(sin + time * dim + channel);
        const __m512 along = _mm512_mul_ps(first, c), across = _mm512_mul_ps(first, s);
        first = back ? _mm512_fmadd_ps(second, s, along) : _mm512_fnmadd_ps(second, s, along);
        second = back ? _mm512_fmsub_ps(second, c, across) : _mm512_fmadd_ps(second, c, across);
    }
    Angles from(int64_t time) const { return cos ? Angles{cos + time * dim, sin + time * dim, dim} : *this; }
};

// As `copy_rows`, turned.
void copy_turned_rows(int rows, int present, int dim, const Angles& angles, const Bf16* from, int64_t from_row,
                      Bf16* to) {
    if (!angles) return copy_rows(rows, present, dim, from, from_row, to);
    for (int r = 0; r < present; ++r)
        for (int d = 0; d < dim / 2; d += 16) {
            __m512 first = load16(from + r * from_row + d), second = load16(from + r * from_row + dim / 2 + d);
            angles.turn(r, d, false, first, second);
            store16(to + r * dim + d, first);
            store16(to + r * dim + dim / 2 + d, second);
        }
    std::memset(to + present * dim, 0, (rows - present) * dim * sizeof(Bf16));
}

// A row of gradients of what was turned, times a factor, to bf16.
void store_turned_back(int64_t time, int64_t dim, const Angles& angles, const float* from, float factor, Bf16* to) {
    const __m512 by = _mm512_set1_ps(factor);
    for (int64_t d = 0; d < dim / 2; d += 16) {
        __m512 first = _mm512_mul_ps(_mm512_loadu_ps(from + d), by);
        __m512 second = _mm512_mul_ps(_mm512_loadu_ps(from + dim / 2 + d), by);
        if (angles) angles.turn(time, d, true, first, second);
        store16(to + d, first);
        store16(to + dim / 2 + d, second);
    }
}

enum Seen { NONE, SOME, ALL };

// Which keys a query sees: at or before it (causal), nearer than the window, of its own document.
struct Mask {
    bool causal;
    int64_t window;            // 0: none
    const int32_t* documents;  // of one row, (time,), or null
    int64_t time;

    Seen of(int64_t query_block, int64_t key_block) const {
        int64_t q0 = query_block * BLOCK, k0 = key_block * BLOCK;
        int64_t q1 = std::min(q0 + BLOCK, time) - 1, k1 = std::min(k0 + BLOCK, time) - 1;
        if (causal && k0 > q1) return NONE;
        if (window && (q0 - k1 >= window || (!causal && k0 - q1 >= window))) return NONE;
        bool all = k0 + BLOCK <= time && (!causal || k1 <= q0) && (!window || std::max(q1 - k0, k1 - q0) < window);
        if (!documents) return all ? ALL : SOME;
        auto q = std::minmax_element(documents + q0, documents + q1 + 1);
        auto k = std::minmax_element(documents + k0, documents + k1 + 1);
        if (*q.first > *k.second || *q.second < *k.first) return NONE;
        return all && *q.first == *q.second && *k.first == *k.second ? ALL : SOME;
    }

    // Hide scores (keys x queries) of a block of which SOME are seen.
    void hide(int64_t query_block, int64_t key_block, float* scores) const {
        __m512i step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int n = 0; n < BLOCK; n += 16) {
            int64_t first = query_block * BLOCK + n;
            __m512i queries = _mm512_add_epi32(_mm512_set1_epi32(int(first)), step), of_queries = queries;
            if (documents) {
                __mmask16 there = first + 16 <= time ? 0xffff : first < time ? (1u << (time - first)) - 1 : 0;
                of_queries = _mm512_maskz_loadu_epi32(there, documents + std::min(first, time - 1));
            }
            for (int r = 0; r < BLOCK; ++r) {
                int64_t key = key_block * BLOCK + r;
                __mmask16 seen = key < time ? 0xffff : 0;
                __m512i ahead = _mm512_sub_epi32(queries, _mm512_set1_epi32(int(key)));
                if (causal) seen &= _mm512_cmpge_epi32_mask(ahead, _mm512_setzero_si512());
                if (window) seen &= _mm512_cmplt_epi32_mask(_mm512_abs_epi32(ahead), _mm512_set1_epi32(int(window)));
                if (documents && key < time)
                    seen &= _mm512_cmpeq_epi32_mask(of_queries, _mm512_set1_epi32(documents[key]));
                float* at = scores + r * BLOCK + n;
                _mm512_storeu_ps(at, _mm512_mask_mov_ps(_mm512_set1_ps(HIDDEN), seen, _mm512_loadu_ps(at)));
            }
        }
    }
};

// Rows of scores 2r and 2r + 1 as weights, number by number beside each other.
inline __m512i side_by_side(__m512 even, __m512 odd) {
    alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

// (dim x queries) of fp32, each column times its factor, to rows of bf16, turned back.
void store_rows(int dim, int present, float* columns, const __m512* factors, const Angles& angles, Bf16* to,
                int64_t to_row, float* turned) {
    for (int d = 0; d < dim; ++d)
        for (int n = 0; n < 4; ++n) {
            float* at = columns + d * BLOCK + 16 * n;
            _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factors[n]));
        }
    transpose(dim, BLOCK, reinterpret_cast<Word*>(columns), BLOCK, reinterpret_cast<Word*>(turned), dim);
    for (int r = 0; r < present; ++r) store_turned_back(r, dim, angles, turned + r * dim, 1, to + r * to_row);
}

void forward_head(const Sizes& sizes, const Mask& mask, const Angles& angles, float scale, const Bf16* q, int64_t q_row,
                  const Bf16* k, int64_t k_row, const Bf16* v, int64_t v_row, Bf16* out, int64_t out_row,
                  float* log_sums) {
    const int dim = int(sizes.dim), half = dim / 2;
    const int64_t blocks = sizes.blocks(), size = BLOCK * dim;
    auto keys = buffer<Bf16>(blocks * size);       // rows
    auto values = buffer<Word>(blocks * size / 2);  // (dim x keys): pairs along keys
    auto rows = buffer<Bf16>(size);
    auto paired = buffer<Word>(size / 2), queries = buffer<Word>(size / 2);
    auto scores = buffer<float>(BLOCK * BLOCK), mixed = buffer<float>(size), turned = buffer<float>(size);
    auto weights = buffer<Word>(BLOCK * BLOCK / 2);
    const __m512 unit = _mm512_set1_ps(scale * LOG2E);

    for (int64_t j = 0; j < blocks; ++j) {
        int present = int(std::min<int64_t>(BLOCK, sizes.time - j * BLOCK));
        copy_turned_rows(BLOCK, present, dim, angles.from(j * BLOCK), k + j * BLOCK * k_row, k_row,
                         keys.get() + j * size);
        copy_rows(BLOCK, present, dim, v + j * BLOCK * v_row, v_row, rows.get());
        pair_rows(BLOCK, dim, rows.get(), dim, paired.get());
        transpose(BLOCK / 2, dim, paired.get(), dim, values.get() + j * size / 2, BLOCK / 2);
    }
    for (int64_t i = 0; i < blocks; ++i) {
        int present = int(std::min<int64_t>(BLOCK, sizes.time - i * BLOCK));
        copy_turned_rows(BLOCK, present, dim, angles.from(i * BLOCK), q + i * BLOCK * q_row, q_row, rows.get());
        transpose(BLOCK, half, reinterpret_cast<Word*>(rows.get()), half, queries.get(), BLOCK);
        __m512 largest[4], sums[4];
        for (int n = 0; n < 4; ++n) largest[n] = _mm512_set1_ps(LOWEST), sums[n] = _mm512_setzero_ps();
        bool begun = false;
        for (int64_t j = 0; j < blocks; ++j) {
            Seen seen = mask.of(i, j);
            if (seen == NONE) continue;
            multiply(BLOCK, BLOCK, half, reinterpret_cast<Word*>(keys.get() + j * size), half, queries.get(), BLOCK,
                     scores.get(), BLOCK, false);
            if (seen == SOME) mask.hide(i, j, scores.get());
            for (int n = 0; n < 4; ++n) {
                float* column = scores.get() + 16 * n;
                __m512 one = largest[n], two = one;
                for (int r = 0; r < BLOCK; r += 2) {
                    one = _mm512_max_ps(one, _mm512_loadu_ps(column + r * BLOCK));
                    two = _mm512_max_ps(two, _mm512_loadu_ps(column + (r + 1) * BLOCK));
                }
                one = _mm512_max_ps(one, two);
                if (begun && _mm512_cmpneq_ps_mask(one, largest[n])) {
                    __m512 shrink = exp2_16(_mm512_mul_ps(_mm512_sub_ps(largest[n], one), unit));
                    sums[n] = _mm512_mul_ps(sums[n], shrink);
                    for (int d = 0; d < dim; ++d) {
                        float* at = mixed.get() + d * BLOCK + 16 * n;
                        _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), shrink));
                    }
                }
                largest[n] = one;
                __m512 offset = _mm512_mul_ps(one, unit), even_sum = _mm512_setzero_ps(), odd_sum = even_sum;
                for (int r = 0; r < BLOCK; r += 2) {
                    __m512 even = exp2_16(_mm512_fmsub_ps(_mm512_loadu_ps(column + r * BLOCK), unit, offset));
                    __m512 odd = exp2_16(_mm512_fmsub_ps(_mm512_loadu_ps(column + (r + 1) * BLOCK), unit, offset));
                    even_sum = _mm512_add_ps(even_sum, even), odd_sum = _mm512_add_ps(odd_sum, odd);
                    _mm512_storeu_si512(weights.get() + r / 2 * BLOCK + 16 * n, side_by_side(even, odd));
                }
                sums[n] = _mm512_add_ps(sums[n], _mm512_add_ps(even_sum, odd_sum));
            }
            multiply(dim, BLOCK, BLOCK / 2, values.get() + j * size / 2, BLOCK / 2, weights.get(), BLOCK, mixed.get(),
                     BLOCK, begun);
            begun = true;
        }
        __m512 factors[4];
        alignas(64) float logs[BLOCK];
        for (int n = 0; n < 4; ++n) {
            factors[n] = _mm512_div_ps(_mm512_set1_ps(1), sums[n]);
            _mm512_store_ps(logs + 16 * n, sums[n]);
        }
        store_rows(dim, present, mixed.get(), factors, Angles{}, out + i * BLOCK * out_row, out_row, turned.get());
        alignas(64) float tops[BLOCK];
        for (int n = 0; n < 4; ++n) _mm512_store_ps(tops + 16 * n, _mm512_mul_ps(largest[n], unit));
        for (int r = 0; r < present; ++r) log_sums[i * BLOCK + r] = tops[r] + std::log2(logs[r]);
    }
}

// Operands that one matrix of (time x dim) is used as.
struct Operand {
    Buffer<Bf16> rows;   // (time x dim)
    Buffer<Word> turned;  // blocks of (dim / 2 x BLOCK): summed over dim, a column a row
    Buffer<Word> paired;  // blocks of (BLOCK / 2 x dim): summed over time

    Operand(const Sizes& sizes, const Angles& angles, const Bf16* from, int64_t from_row) {
        const int dim = int(sizes.dim);
        const int64_t blocks = sizes.blocks(), size = BLOCK * dim;
        rows = buffer<Bf16>(blocks * size);
        turned = buffer<Word>(blocks * size / 2);
        paired = buffer<Word>(blocks * size / 2);
        for (int64_t i = 0; i < blocks; ++i) {
            int present = int(std::min<int64_t>(BLOCK, sizes.time - i * BLOCK));
            Bf16* own = rows.get() + i * size;
            copy_turned_rows(BLOCK, present, dim, angles.from(i * BLOCK), from + i * BLOCK * from_row, from_row, own);
            transpose(BLOCK, dim / 2, reinterpret_cast<Word*>(own), dim / 2, turned.get() + i * size / 2, BLOCK);
            pair_rows(BLOCK, dim, own, dim, paired.get() + i * size / 2);
        }
    }
};

struct Key {
    Buffer<Bf16> rows;
    Buffer<Word> across;  // blocks of (dim x BLOCK / 2): a row a channel, summed over time
    Key(const Sizes& sizes, const Angles& angles, const Bf16* from, int64_t from_row, bool with_across) {
        const int dim = int(sizes.dim);
        const int64_t blocks = sizes.blocks(), size = BLOCK * dim;
        rows = buffer<Bf16>(blocks * size);
        if (with_across) across = buffer<Word>(blocks * size / 2);
        auto paired = buffer<Word>(size / 2);
        for (int64_t j = 0; j < blocks; ++j) {
            int present = int(std::min<int64_t>(BLOCK, sizes.time - j * BLOCK));
            Bf16* own = rows.get() + j * size;
            copy_turned_rows(BLOCK, present, dim, angles.from(j * BLOCK), from + j * BLOCK * from_row, from_row, own);
            if (!with_across) continue;
            pair_rows(BLOCK, dim, own, dim, paired.get());
            transpose(BLOCK / 2, dim, paired.get(), dim, across.get() + j * size / 2, BLOCK / 2);
        }
    }
};

struct Given {
    const Bf16 *q, *out, *slope;
    int64_t q_row, out_row, slope_row;
    const float* log_sums;
    Bf16* dq;
    int64_t dq_row;
};

// Adds what one head of queries gives to the gradients of its keys and values, (time x dim) of fp32.
void backward_head(const Sizes& sizes, const Mask& mask, const Angles& angles, float scale, const Given& given,
                   const Key& keys, const Key& values, float* dk, float* dv) {
    const int dim = int(sizes.dim), half = dim / 2;
    const int64_t blocks = sizes.blocks(), size = BLOCK * dim;
    Operand q(sizes, angles, given.q, given.q_row), slope(sizes, Angles{}, given.slope, given.slope_row);
    auto dq = buffer<float>(blocks * size);  // blocks of (dim x queries)
    std::memset(dq.get(), 0, blocks * size * sizeof(float));
    auto logs = buffer<float>(blocks * BLOCK), inner = buffer<float>(blocks * BLOCK);
    auto scores = buffer<float>(BLOCK * BLOCK), slopes = buffer<float>(BLOCK * BLOCK), turned = buffer<float>(size);
    auto weights = buffer<Bf16>(BLOCK * BLOCK), steps = buffer<Bf16>(BLOCK * BLOCK);
    auto paired = buffer<Word>(BLOCK * BLOCK / 2);
    const __m512 unit = _mm512_set1_ps(scale * LOG2E);

    for (int64_t t = 0; t < blocks * BLOCK; ++t) {
        __m512 sum = _mm512_setzero_ps();
        if (t < sizes.time)
            for (int d = 0; d < dim; d += 16)
                sum = _mm512_fmadd_ps(load16(given.out + t * given.out_row + d),
                                      load16(given.slope + t * given.slope_row + d), sum);
        inner[t] = _mm512_reduce_add_ps(sum);
        logs[t] = t < sizes.time ? given.log_sums[t] : 0;
    }
    for (int64_t j = 0; j < blocks; ++j) {
        for (int64_t i = 0; i < blocks; ++i) {
            Seen seen = mask.of(i, j);
            if (seen == NONE) continue;
            multiply(BLOCK, BLOCK, half, reinterpret_cast<Word*>(keys.rows.get() + j * size), half,
                     q.turned.get() + i * size / 2, BLOCK, scores.get(), BLOCK, false);
            if (seen == SOME) mask.hide(i, j, scores.get());
            multiply(BLOCK, BLOCK, half, reinterpret_cast<Word*>(values.rows.get() + j * size), half,
                     slope.turned.get() + i * size / 2, BLOCK, slopes.get(), BLOCK, false);
            for (int n = 0; n < BLOCK; n += 16) {
                __m512 log = _mm512_loadu_ps(logs.get() + i * BLOCK + n), own = _mm512_loadu_ps(inner.get() + i * BLOCK + n);
                for (int r = 0; r < BLOCK; r += 2) {
                    __m512 weight[2], step[2];
                    for (int two = 0; two < 2; ++two) {
                        int at = (r + two) * BLOCK + n;
                        weight[two] = exp2_16(_mm512_fmsub_ps(_mm512_loadu_ps(scores.get() + at), unit, log));
                        step[two] = _mm512_mul_ps(weight[two], _mm512_sub_ps(_mm512_loadu_ps(slopes.get() + at), own));
                        store16(weights.get() + at, weight[two]);
                    }
                    store16(steps.get() + r * BLOCK + n, step[0]);
                    store16(steps.get() + (r + 1) * BLOCK + n, step[1]);
                    _mm512_storeu_si512(paired.get() + r / 2 * BLOCK + n, side_by_side(step[0], step[1]));
                }
            }
            multiply(BLOCK, dim, BLOCK / 2, reinterpret_cast<Word*>(weights.get()), BLOCK / 2,
                     slope.paired.get() + i * size / 2, dim, dv + j * size, dim, true);
            multiply(BLOCK, dim, BLOCK / 2, reinterpret_cast<Word*>(steps.get()), BLOCK / 2,
                     q.paired.get() + i * size / 2, dim, dk + j * size, dim, true);
            multiply(dim, BLOCK, BLOCK / 2, keys.across.get() + j * size / 2, BLOCK / 2, paired.get(), BLOCK,
                     dq.get() + i * size, BLOCK, true);
        }
    }
    __m512 factors[4];
    for (auto& factor : factors) factor = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < blocks; ++i)
        store_rows(dim, int(std::min<int64_t>(BLOCK, sizes.time - i * BLOCK)), dq.get() + i * size, factors,
                   angles.from(i * BLOCK), given.dq + i * BLOCK * given.dq_row, given.dq_row, turned.get());
}

void store_sums(const Sizes& sizes, const Angles& angles, const float* sums, float factor, Bf16* to, int64_t to_row) {
    for (int64_t t = 0; t < sizes.time; ++t)
        store_turned_back(t, sizes.dim, angles, sums + t * sizes.dim, factor, to + t * to_row);
}

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
extern "C" void attention_forward(const Bf16* q, const Bf16* k, const Bf16* v, Bf16* out, float* log_sums,
                                  const float* cos, const float* sin, int64_t angles_row, const int64_t* sizes_,
                                  const int64_t* strides, const int32_t* documents, int64_t causal, int64_t window,
                                  double scale) {
    const Sizes sizes{sizes_[0], sizes_[1], sizes_[2], sizes_[3], sizes_[4]};
    const Strides* of = reinterpret_cast<const Strides*>(strides);
    share_out(sizes.batch * sizes.heads, [&](int64_t item) {
        int64_t row = item / sizes.heads, head = item % sizes.heads, shared = head / (sizes.heads / sizes.kv_heads);
        const Angles angles{cos ? cos + row * angles_row : nullptr, sin + row * angles_row, sizes.dim};
        Mask mask{causal != 0, window, documents ? documents + row * sizes.time : nullptr, sizes.time};
        forward_head(sizes, mask, angles, float(scale), q + row * of[0].row + head * of[0].head, of[0].time,
                     k + row * of[1].row + shared * of[1].head, of[1].time, v + row * of[2].row + shared * of[2].head,
                     of[2].time, out + row * of[3].row + head * of[3].head, of[3].time, log_sums + item * sizes.time);
    });
}

// strides: of q, k, v, out, slope, dq, dk, dv. slope: the gradient of `out`.
extern "C" void attention_backward(const Bf16* q, const Bf16* k, const Bf16* v, const Bf16* out, const float* log_sums,
                                   const Bf16* slope, Bf16* dq, Bf16* dk, Bf16* dv, const float* cos,
                                   const float* sin, int64_t angles_row, const int64_t* sizes_,
                                   const int64_t* strides, const int32_t* documents, int64_t causal, int64_t window,
                                   double scale) {
    const Sizes sizes{sizes_[0], sizes_[1], sizes_[2], sizes_[3], sizes_[4]};
    const Strides* of = reinterpret_cast<const Strides*>(strides);
    const int64_t group = sizes.heads / sizes.kv_heads, numbers = sizes.blocks() * BLOCK * sizes.dim;
    share_out(sizes.batch * sizes.kv_heads, [&](int64_t item) {
        int64_t row = item / sizes.kv_heads, shared = item % sizes.kv_heads;
        const Angles angles{cos ? cos + row * angles_row : nullptr, sin + row * angles_row, sizes.dim};
        Mask mask{causal != 0, window, documents ? documents + row * sizes.time : nullptr, sizes.time};
        Key keys(sizes, angles, k + row * of[1].row + shared * of[1].head, of[1].time, true);
        Key values(sizes, Angles{}, v + row * of[2].row + shared * of[2].head, of[2].time, false);
        auto key_sums = buffer<float>(numbers), value_sums = buffer<float>(numbers);
        std::memset(key_sums.get(), 0, numbers * sizeof(float));
        std::memset(value_sums.get(), 0, numbers * sizeof(float));
        for (int64_t head = shared * group; head < (shared + 1) * group; ++head) {
            Given given{q + row * of[0].row + head * of[0].head, out + row * of[3].row + head * of[3].head,
                        slope + row * of[4].row + head * of[4].head, of[0].time, of[3].time, of[4].time,
                        log_sums + (row * sizes.heads + head) * sizes.time,
                        dq + row * of[5].row + head * of[5].head, of[5].time};
            backward_head(sizes, mask, angles, float(scale), given, keys, values, key_sums.get(), value_sums.get());
        }
        store_sums(sizes, angles, key_sums.get(), float(scale), dk + row * of[6].row + shared * of[6].head, of[6].time);
        store_sums(sizes, Angles{}, value_sums.get(), 1.0f, dv + row * of[7].row + shared * of[7].head, of[7].time);
    });
}

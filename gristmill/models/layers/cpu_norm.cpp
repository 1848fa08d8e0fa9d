// RMS norms of fp32 rows with what is added to them before, in one pass over the memory each way (Zhang and Sennrich
// 2019, arXiv:1910.07467). A row stays in the first cache while it is read twice, and the next one is fetched; fp32 rows
// of results, which are not read for long, are written past the caches.

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "bf16.h"

namespace {

constexpr int64_t PART = 64;  // rows whose gradients of the weight are summed first: whatever the number of threads

// Fetches what lies where these sixteen numbers are, a row further on.
inline void fetch(const float* next) { __builtin_prefetch(next); }
inline void fetch(const Bf16* next) {
    if (reinterpret_cast<uintptr_t>(next) % 64 < 32) __builtin_prefetch(next);
}

}  // namespace

// x (rows, dim) fp32 and `added` (bf16, or null) -> sum = x + added (fp32, or null without `added`), out (bf16): sum /
// rms(sum) * weight, and 1 / rms of each row. dim: a multiple of 16.
extern "C" void norm_forward(const float* x, const Bf16* added, int64_t rows, int64_t dim, const float* weight,
                             double eps, float* sum, Bf16* out, float* inverse) {
#pragma omp parallel
    {
        auto summed = buffer<float>(added ? dim : 0);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; ++r) {
            const float* row = x + r * dim;
            __m512 squares = _mm512_setzero_ps();
            for (int64_t i = 0; i < dim; i += 16) {
                __m512 one = _mm512_loadu_ps(row + i);
                fetch(row + dim + i);
                if (added) {
                    const Bf16* more = added + r * dim + i;
                    fetch(more + dim);
                    one = _mm512_add_ps(one, load16(more));
                    _mm512_store_ps(summed.get() + i, one);
                    _mm512_stream_ps(sum + r * dim + i, one);
                }
                squares = _mm512_fmadd_ps(one, one, squares);
            }
            if (added) row = summed.get();
            inverse[r] = 1 / std::sqrt(_mm512_reduce_add_ps(squares) / float(dim) + float(eps));
            const __m512 factor = _mm512_set1_ps(inverse[r]);
            for (int64_t i = 0; i < dim; i += 16)
                store16(out + r * dim + i,
                        _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(row + i), factor), _mm512_loadu_ps(weight + i)));
        }
        settle_streamed();
    }
}

// From the gradients of out (`slope`) and of the sum (`sum_slope`, or null) to those of x (fp32), of `added` (bf16, or
// null) and of the weight. x: the sum.
extern "C" void norm_backward(const Bf16* slope, const float* sum_slope, const float* x, const float* weight,
                              const float* inverse, int64_t rows, int64_t dim, float* x_slope, Bf16* added_slope,
                              float* weight_slope) {
    const int64_t parts = (rows + PART - 1) / PART;
    auto sums = buffer<float>(parts * dim);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t part = 0; part < parts; ++part) {
            float* own = sums.get() + part * dim;
            std::memset(own, 0, dim * sizeof(float));
            for (int64_t r = part * PART; r < std::min(rows, (part + 1) * PART); ++r) {
                const float* row = x + r * dim;
                __m512 dots = _mm512_setzero_ps();
                const __m512 factor = _mm512_set1_ps(inverse[r]);
                for (int64_t i = 0; i < dim; i += 16) {
                    __m512 one = _mm512_loadu_ps(row + i), down = load16(slope + r * dim + i);
                    fetch(row + dim + i), fetch(slope + (r + 1) * dim + i);
                    dots = _mm512_fmadd_ps(_mm512_mul_ps(down, _mm512_loadu_ps(weight + i)), one, dots);
                    __m512 so_far = _mm512_loadu_ps(own + i);
                    _mm512_storeu_ps(own + i, _mm512_fmadd_ps(_mm512_mul_ps(one, factor), down, so_far));
                }
                const float by = inverse[r] * inverse[r] * inverse[r] / float(dim) * _mm512_reduce_add_ps(dots);
                const __m512 less = _mm512_set1_ps(by);
                for (int64_t i = 0; i < dim; i += 16) {
                    __m512 down = _mm512_mul_ps(load16(slope + r * dim + i), _mm512_loadu_ps(weight + i));
                    __m512 found = _mm512_fnmadd_ps(_mm512_loadu_ps(row + i), less, _mm512_mul_ps(down, factor));
                    if (sum_slope) {
                        found = _mm512_add_ps(found, _mm512_loadu_ps(sum_slope + r * dim + i));
                        fetch(sum_slope + (r + 1) * dim + i);
                    }
                    _mm512_stream_ps(x_slope + r * dim + i, found);
                    if (added_slope) store16(added_slope + r * dim + i, found);
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < dim; i += 16) {
            __m512 whole = _mm512_setzero_ps();
            for (int64_t part = 0; part < parts; ++part)
                whole = _mm512_add_ps(whole, _mm512_loadu_ps(sums.get() + part * dim + i));
            _mm512_storeu_ps(weight_slope + i, whole);
        }
        settle_streamed();
    }
}

// The copy y = a * x that everything is measured against: plain or streaming stores; knows nothing
// of batch norm.

#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

// A share of the array begins on a cache line, so that no two threads write the same one.
constexpr std::size_t line_bytes = 64;

struct Share {
    std::size_t begin, end;
};

template <class T>
Share share_of(std::size_t n, int part, int parts) {
    constexpr std::size_t per_line = line_bytes / sizeof(T);
    const std::size_t lines = (n + per_line - 1) / per_line;
    const std::size_t begin = lines * part / parts * per_line;
    const std::size_t end = lines * (part + 1) / parts * per_line;
    return {begin < n ? begin : n, end < n ? end : n};
}

template <class T>
void copy_plain(const T* x, T* y, std::size_t n, T a) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) {
        y[i] = a * x[i];
    }
}

#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64;
void stream(float* y, const float* x, float a) {
    _mm512_stream_ps(y, _mm512_mul_ps(_mm512_set1_ps(a), _mm512_loadu_ps(x)));
}
void stream(double* y, const double* x, double a) {
    _mm512_stream_pd(y, _mm512_mul_pd(_mm512_set1_pd(a), _mm512_loadu_pd(x)));
}
#elif defined(__AVX__)
constexpr std::size_t vector_bytes = 32;
void stream(float* y, const float* x, float a) {
    _mm256_stream_ps(y, _mm256_mul_ps(_mm256_set1_ps(a), _mm256_loadu_ps(x)));
}
void stream(double* y, const double* x, double a) {
    _mm256_stream_pd(y, _mm256_mul_pd(_mm256_set1_pd(a), _mm256_loadu_pd(x)));
}
#elif defined(__SSE2__)
constexpr std::size_t vector_bytes = 16;
void stream(float* y, const float* x, float a) {
    _mm_stream_ps(y, _mm_mul_ps(_mm_set1_ps(a), _mm_loadu_ps(x)));
}
void stream(double* y, const double* x, double a) {
    _mm_stream_pd(y, _mm_mul_pd(_mm_set1_pd(a), _mm_loadu_pd(x)));
}
#else
constexpr std::size_t vector_bytes = 0;  // no streaming stores on this processor
#endif

template <class T>
void copy_streaming(const T* x, T* y, std::size_t n, T a) {
#if defined(__SSE2__)
    constexpr std::size_t lanes = vector_bytes / sizeof(T);
    std::size_t i = 0;
    for (; i < n && reinterpret_cast<std::uintptr_t>(y + i) % vector_bytes != 0; ++i) {
        y[i] = a * x[i];
    }
    for (; i + lanes <= n; i += lanes) {
        stream(y + i, x + i, a);
    }
    copy_plain(x + i, y + i, n - i, a);
    _mm_sfence();
#else
    copy_plain(x, y, n, a);
#endif
}

template <class T>
void copy(const T* x, T* y, std::size_t n, T a, int streaming, int threads) {
    if (threads <= 1) {
        streaming ? copy_streaming(x, y, n, a) : copy_plain(x, y, n, a);
        return;
    }
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int part = 0; part < threads; ++part) {
        const Share mine = share_of<T>(n, part, threads);
        const std::size_t length = mine.end - mine.begin;
        streaming ? copy_streaming(x + mine.begin, y + mine.begin, length, a)
                  : copy_plain(x + mine.begin, y + mine.begin, length, a);
    }
}

}  // namespace

extern "C" {

void copy_f32(const float* x, float* y, std::size_t n, double a, int streaming, int threads) {
    copy(x, y, n, static_cast<float>(a), streaming, threads);
}

void copy_f64(const double* x, double* y, std::size_t n, double a, int streaming, int threads) {
    copy(x, y, n, a, streaming, threads);
}

int copy_has_streaming() { return vector_bytes != 0; }
}

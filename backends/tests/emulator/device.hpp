// What a kernel of CUDA C++ sees when it runs on the host: its qualifiers, types and intrinsics, as
// far as CubeCL's kernels use them. Included before the kernel's text; no header of the system is,
// because CubeCL defines the names of <cstdint> itself.
#pragma once

typedef __SIZE_TYPE__ size_t;

#define __device__
#define __global__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __forceinline__ inline
#define GLM_INLINE static inline __attribute__((always_inline))

// Set before a launch.
extern "C" glm::Host* glm_host;

#define threadIdx (glm_host->thread)
#define blockIdx (glm_host->block)
#define blockDim (glm_host->threads)
#define gridDim (glm_host->blocks)
#define warpSize 32

namespace glm {

// A pointer that a kernel gets, whose accesses may be counted.
template <class T>
struct Buffer {
    T* data;
    int place;
    template <class I>
    T& operator[](I index) const {
        if (__builtin_expect(glm_host->counters != nullptr, 0)) count((char*)(data + index));
        return data[index];
    }
    void count(const char* element) const {
        Counter* counter = glm_host->counters[place];
        size_t first = size_t(element - counter->base) / 8;
        size_t last = size_t(element + sizeof(T) - 1 - counter->base) / 8;
        for (size_t granule = first; granule <= last; ++granule) {
            unsigned& block = counter->blocks[granule];
            if (block == glm_host->block_number) continue;
            counter->fetched += 8;
            if (block == 0) counter->unique += 8;
            block = glm_host->block_number;
        }
    }
    T& operator*() const { return (*this)[0]; }
    explicit operator T*() const { return data; }
};

template <class T>
struct Plain {
    typedef T type;
};
template <class T>
struct Plain<T const> {
    typedef T type;
};

template <class T>
struct Arg {
    static const int size = sizeof(T), element = 0;
    static T get(void* value, int) { return *(T*)value; }
};
template <class T>
struct Arg<Buffer<T>> {
    static const int size = sizeof(T*), element = sizeof(T);
    static Buffer<T> get(void* value, int place) { return {*(T**)value, place}; }
};

template <int... I>
struct Places {};
template <int N, int... I>
struct Range : Range<N - 1, N - 1, I...> {};
template <int... I>
struct Range<0, I...> {
    typedef Places<I...> type;
};

template <class... A, int... I>
void call(void (*kernel)(A...), void** args, Places<I...>) {
    kernel(Arg<typename Plain<A>::type>::get(args[I], I)...);
}
template <class... A>
void call(void (*kernel)(A...), void** args) {
    call(kernel, args, typename Range<sizeof...(A)>::type());
}

// Bytes of each parameter, and of an element where it is a buffer.
struct Parameters {
    int count;
    int sizes[128], elements[128];
};
template <class... A>
Parameters parameters(void (*)(A...)) {
    return {sizeof...(A),
            {Arg<typename Plain<A>::type>::size...},
            {Arg<typename Plain<A>::type>::element...}};
}

GLM_INLINE unsigned bits(float value) { return __builtin_bit_cast(unsigned, value); }
GLM_INLINE float from_bits(unsigned value) { return __builtin_bit_cast(float, value); }

// Of binary16, rounded to nearest even.
GLM_INLINE unsigned short to_half(float value) {
    unsigned word = bits(value), sign = word >> 16 & 0x8000, rest = word & 0x7fffffff;
    if (rest > 0x7f800000) return sign | 0x7fff;
    if (rest >= 0x477ff000) return sign | 0x7c00;
    if (rest < 0x38800000)  // adding 0.5 leaves what a subnormal holds in the last bits
        return sign | (bits(from_bits(rest) + 0.5f) - bits(0.5f));
    unsigned odd = rest >> 13 & 1;
    return sign | ((rest + 0xc8000fff + odd) >> 13);
}
GLM_INLINE float from_half(unsigned short value) {
    unsigned sign = unsigned(value & 0x8000) << 16, rest = value & 0x7fff;
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    float magnitude = from_bits(rest << 13) * 0x1p112f;
    return from_bits(sign | bits(magnitude));
}
GLM_INLINE unsigned short to_bf16(float value) {
    unsigned word = bits(value);
    if ((word & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (word + 0x7fff + (word >> 16 & 1)) >> 16;
}
GLM_INLINE float from_bf16(unsigned short value) { return from_bits(unsigned(value) << 16); }

// Of 10 bits of mantissa, rounded to nearest.
GLM_INLINE float to_tf32(float value) { return from_bits((bits(value) + 0x1000) & 0xffffe000); }

// Of E4M3 without infinities.
GLM_INLINE float from_e4m3(unsigned char code) {
    unsigned exponent = code >> 3 & 15, mantissa = code & 7;
    float sign = code & 0x80 ? -1.0f : 1.0f;
    if (exponent == 15 && mantissa == 7) return __builtin_nanf("");
    if (exponent == 0) return sign * float(mantissa) * 0x1p-9f;
    return sign * from_bits((exponent + 120) << 23 | mantissa << 20);
}
GLM_INLINE unsigned char to_e4m3(float value) {
    unsigned sign = bits(value) >> 24 & 0x80;
    float rest = __builtin_fabsf(value);
    if (rest != rest) return sign | 0x7f;
    if (rest >= 464.0f) return sign | 0x7e;
    if (rest < 0x1p-6f) return sign | (unsigned char)__builtin_rintf(rest * 512.0f);
    unsigned word = bits(rest), odd = word >> 20 & 1;
    word = (word + 0x7ffff + odd) >> 20;
    unsigned code = word - (120 << 3);
    return sign | (code > 0x7e ? 0x7e : code);
}

}  // namespace glm

struct __nv_bfloat16 {
    unsigned short word;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) : word(glm::to_bf16(value)) {}
    operator float() const { return glm::from_bf16(word); }
};
struct __half_raw {
    unsigned short x;
};
struct __half2_raw {
    unsigned short x, y;
};
struct __half {
    unsigned short word;
    __half() = default;
    __half(float value) : word(glm::to_half(value)) {}
    __half(__half_raw raw) : word(raw.x) {}
    operator float() const { return glm::from_half(word); }
};
struct alignas(4) __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half2_raw raw) : x(__half_raw{raw.x}), y(__half_raw{raw.y}) {}
    __half2(__half x, __half y) : x(x), y(y) {}
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
};

typedef unsigned char __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };

GLM_INLINE __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t code, __nv_fp8_interpretation_t) {
    return {glm::to_half(glm::from_e4m3(code))};
}
GLM_INLINE __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t codes,
                                                  __nv_fp8_interpretation_t) {
    return {glm::to_half(glm::from_e4m3(codes & 255)), glm::to_half(glm::from_e4m3(codes >> 8))};
}
GLM_INLINE __nv_fp8_storage_t __nv_cvt_float_to_fp8(float value, __nv_saturation_t,
                                                    __nv_fp8_interpretation_t) {
    return glm::to_e4m3(value);
}
template <class T>
GLM_INLINE __nv_fp8_storage_t __nv_cvt_bfloat16raw_to_fp8(T value, __nv_saturation_t,
                                                          __nv_fp8_interpretation_t) {
    return glm::to_e4m3(float(value));
}
template <class T>
GLM_INLINE __nv_fp8_storage_t __nv_cvt_halfraw_to_fp8(T value, __nv_saturation_t,
                                                      __nv_fp8_interpretation_t) {
    return glm::to_e4m3(float(__half(value)));
}

#define GLM_UNARY(name, function) \
    GLM_INLINE float name(float value) { return function(value); }
GLM_UNARY(exp, __builtin_expf)
GLM_UNARY(log, __builtin_logf)
GLM_UNARY(log1p, __builtin_log1pf)
GLM_UNARY(sin, __builtin_sinf)
GLM_UNARY(cos, __builtin_cosf)
GLM_UNARY(tanh, __builtin_tanhf)
GLM_UNARY(sqrt, __builtin_sqrtf)
GLM_UNARY(floor, __builtin_floorf)
GLM_UNARY(ceil, __builtin_ceilf)
GLM_UNARY(trunc, __builtin_truncf)
GLM_UNARY(rint, __builtin_rintf)
GLM_UNARY(round, __builtin_roundf)
GLM_UNARY(fabs, __builtin_fabsf)
GLM_UNARY(__expf, __builtin_expf)
GLM_UNARY(__logf, __builtin_logf)
#undef GLM_UNARY
GLM_INLINE float rsqrt(float value) { return 1.0f / __builtin_sqrtf(value); }
GLM_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
GLM_INLINE float pow(float a, float b) { return __builtin_powf(a, b); }
GLM_INLINE float __powf(float a, float b) { return __builtin_powf(a, b); }
GLM_INLINE float max(float a, float b) { return __builtin_fmaxf(a, b); }
GLM_INLINE float min(float a, float b) { return __builtin_fminf(a, b); }
GLM_INLINE float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
GLM_INLINE float fminf(float a, float b) { return __builtin_fminf(a, b); }
#define GLM_ORDERED(type)                                            \
    GLM_INLINE type max(type a, type b) { return a > b ? a : b; }    \
    GLM_INLINE type min(type a, type b) { return a < b ? a : b; }
GLM_ORDERED(int)
GLM_ORDERED(unsigned)
GLM_ORDERED(long long)
GLM_ORDERED(unsigned long long)
GLM_ORDERED(unsigned long)
#undef GLM_ORDERED
GLM_INLINE int __clz(int word) { return word ? __builtin_clz(word) : 32; }
GLM_INLINE int __ffs(int word) { return __builtin_ffs(word); }
GLM_INLINE int __popc(unsigned word) { return __builtin_popcount(word); }
GLM_INLINE unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned((unsigned long long)a * b >> 32);
}
GLM_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
GLM_INLINE bool isnan(float value) { return __builtin_isnan(value); }
GLM_INLINE bool isinf(float value) { return __builtin_isinf(value); }

GLM_INLINE void __syncthreads() { glm_host->sync_block(); }
GLM_INLINE void __syncwarp(unsigned = ~0u) { glm_host->sync_warp(); }
GLM_INLINE void __threadfence() {}
GLM_INLINE unsigned __activemask() { return ~0u; }

namespace glm {

// The value of another lane. Two sets of slots in turn, because nobody is two exchanges ahead.
template <class T>
T exchange(T value, unsigned from) {
    static_assert(sizeof(T) <= 16, "a slot");
    unsigned set = (*glm_host->turn)++ & 1;
    __builtin_memcpy(glm_host->slots[set][glm_host->lane], &value, sizeof(T));
    glm_host->sync_warp();
    T other;
    __builtin_memcpy(&other, glm_host->slots[set][from & 31], sizeof(T));
    return other;
}

GLM_INLINE float max_nan(float a, float b) {
    return a != a || b != b ? __builtin_nanf("") : __builtin_fmaxf(a, b);
}
GLM_INLINE float min_nan(float a, float b) {
    return a != a || b != b ? __builtin_nanf("") : __builtin_fminf(a, b);
}

}  // namespace glm

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return glm::exchange(value, glm_host->lane ^ unsigned(mask));
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
    return glm::exchange(value, unsigned(from));
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
    unsigned lane = glm_host->lane;
    return glm::exchange(value, lane < delta ? lane : lane - delta);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
    unsigned lane = glm_host->lane;
    return glm::exchange(value, lane + delta > 31 ? lane : lane + delta);
}
GLM_INLINE unsigned __ballot_sync(unsigned, bool vote) {
    unsigned set = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        set |= unsigned(glm::exchange(vote, lane)) << lane;
    }
    return set;
}
GLM_INLINE bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
GLM_INLINE bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == ~0u; }

template <class T>
T atomicAdd(T* place, T value) {
    T old = *place;
    *place = old + value;
    return old;
}

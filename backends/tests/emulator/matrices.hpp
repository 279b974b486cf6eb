// Products of matrices by a warp, for kernels on the host. Follows `device.hpp` in one file.

namespace glm {

// What a register of 32 bits holds.
struct tf32 {
    static const int count = 1;
    static float get(unsigned word, int) { return to_tf32(from_bits(word)); }
};
struct bf16 {
    static const int count = 2;
    static float get(unsigned word, int place) { return from_bf16(word >> 16 * place); }
};
struct f16 {
    static const int count = 2;
    static float get(unsigned word, int place) { return from_half(word >> 16 * place); }
};
struct e4m3 {
    static const int count = 4;
    static float get(unsigned word, int place) { return from_e4m3(word >> 8 * place); }
};

// `mma.sync` of 16 x 8 results, whose rows of `a` and columns of `b` are as long as four registers of
// two halves: lane `4 * row + part` holds `a`, lane `4 * column + part` holds `b` (PTX ISA, "Matrix
// Fragments for mma.m16n8k16 with floating point type" and its neighbours).
template <class T>
void mma(float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2,
         unsigned a3, unsigned b0, unsigned b1, float c0, float c1, float c2, float c3) {
    struct A {
        unsigned words[4];
    } a = {{a0, a1, a2, a3}};
    struct B {
        unsigned words[2];
    } b = {{b0, b1}};
    unsigned lane = glm_host->lane, first = (*glm_host->turn)++ & 1;
    __builtin_memcpy(glm_host->slots[first][lane], &a, sizeof a);
    glm_host->sync_warp();
    A rows[4];
    for (unsigned part = 0; part < 4; ++part)
        __builtin_memcpy(&rows[part], glm_host->slots[first][lane / 4 * 4 + part], sizeof a);
    unsigned second = (*glm_host->turn)++ & 1;
    __builtin_memcpy(glm_host->slots[second][lane], &b, sizeof b);
    glm_host->sync_warp();
    float sums[2][2] = {{c0, c1}, {c2, c3}};
    for (unsigned offset = 0; offset < 2; ++offset) {
        unsigned column = lane % 4 * 2 + offset;
        for (unsigned half = 0; half < 2; ++half)
            for (unsigned part = 0; part < 4; ++part) {
                B held;
                __builtin_memcpy(&held, glm_host->slots[second][column * 4 + part], sizeof held);
                for (int place = 0; place < T::count; ++place)
                    for (unsigned below = 0; below < 2; ++below)
                        sums[below][offset] += T::get(rows[part].words[half * 2 + below], place) *
                                               T::get(held.words[half], place);
            }
    }
    d0 = sums[0][0], d1 = sums[0][1], d2 = sums[1][0], d3 = sums[1][1];
}

}  // namespace glm

// Products of a warp's matrices. Lane 0 holds them and computes.
namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K>
struct Shape;
template <int M, int N, int K>
struct Shape<matrix_a, M, N, K> {
    static const int rows = M, columns = K;
};
template <int M, int N, int K>
struct Shape<matrix_b, M, N, K> {
    static const int rows = K, columns = N;
};
template <int M, int N, int K>
struct Shape<accumulator, M, N, K> {
    static const int rows = M, columns = N;
};

template <class Layout>
struct InRows {
    static const bool value = true;
};
template <>
struct InRows<col_major> {
    static const bool value = false;
};

namespace precision {
struct tf32 {};
}  // namespace precision
GLM_INLINE float __float_to_tf32(float value) { return glm::to_tf32(value); }

template <class T>
struct Element {
    static float of(float value) { return value; }
};
template <>
struct Element<precision::tf32> {
    static float of(float value) { return glm::to_tf32(value); }
};

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    static const int rows = Shape<Use, M, N, K>::rows, columns = Shape<Use, M, N, K>::columns;
    static const int num_elements = rows * columns;
    float x[num_elements];
};

template <class F, class V>
void fill_fragment(F& out, V value) {
    for (float& place : out.x) place = float(value);
}

template <class F, class V>
void load(F& out, const V* from, unsigned stride, bool in_rows) {
    glm_host->sync_warp();
    if (glm_host->lane == 0)
        for (int row = 0; row < F::rows; ++row)
            for (int column = 0; column < F::columns; ++column)
                out.x[row * F::columns + column] =
                    float(from[in_rows ? row * stride + column : column * stride + row]);
    glm_host->sync_warp();
}
template <class Use, int M, int N, int K, class T, class Layout, class V>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& out, const V* from, unsigned stride) {
    load(out, from, stride, InRows<Layout>::value);
    for (float& place : out.x) place = Element<T>::of(place);
}
template <class F, class V>
void load_matrix_sync(F& out, const V* from, unsigned stride, layout_t layout) {
    load(out, from, stride, layout == mem_row_major);
}

template <class F, class V>
void store_matrix_sync(V* to, const F& from, unsigned stride, layout_t layout) {
    bool in_rows = layout == mem_row_major;
    glm_host->sync_warp();
    if (glm_host->lane == 0)
        for (int row = 0; row < F::rows; ++row)
            for (int column = 0; column < F::columns; ++column)
                to[in_rows ? row * stride + column : column * stride + row] =
                    V(from.x[row * F::columns + column]);
    glm_host->sync_warp();
}

template <class D, class A, class B, class C>
void mma_sync(D& out, const A& a, const B& b, const C& c) {
    if (glm_host->lane != 0) return;
    for (int row = 0; row < A::rows; ++row)
        for (int column = 0; column < B::columns; ++column) {
            float sum = c.x[row * B::columns + column];
            for (int inner = 0; inner < A::columns; ++inner)
                sum += a.x[row * A::columns + inner] * b.x[inner * B::columns + column];
            out.x[row * B::columns + column] = sum;
        }
}

}  // namespace wmma
}  // namespace nvcuda

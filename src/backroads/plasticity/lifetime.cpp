// One lifetime under a local rule, forwards and backwards, on the CPU. compiled.py prepares the arrays and calls it.
//
// lifetime.py defines what a lifetime is and has the letters: a activities, u the signal, f what feedback brings,
// q = s f + (1 - s) a, D the change of W over mu P. Tests hold this file to it and to autograd.
//
// Arrays of activities are (n, M): a row for each unit, a column for each sample, so that a product with W multiplies a
// row of samples by one number of W at a time, and W is never transposed. Units are padded with zeros to a multiple
// of 16, and M is a multiple of the numbers in a vector register.
//
// The forward pass keeps all activities. Backwards, a lifetime is cut into segments: the forward pass keeps W at the start
// of each; the backward pass does the changes of a segment again, keeps them, and takes them back one by one.
//
// What does not fit into a core's first cache is asked for (prefetched) some hundred cycles before it is needed.
//
// Where there are fewer lifetimes than threads, several share one: each has some of the rows (units, or weights of units) of
// every array, and they wait for one another before they read rows of others.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

enum Shift : int64_t { FEEDBACK, SIGNAL, NONE, FROZEN };  // frozen: does not change

template <typename T>
struct Layer {  // sizes padded; arrays of one lifetime after another have a leading E
    int64_t n_in, n_out, shift;
    T *W;                 // (E, n_out, n_in), changed in place; or null
    T *a;                 // what it receives, (E, steps, n_in, M), for the backward pass; or null
    T *starts;            // (E, segments, n_out, n_in), W at the start of each segment; null if frozen, or never needed
    const T *b, *P;       // (n_out), and mu P (n_out, n_in) unless frozen
    const T *s, *B, *c;   // under FEEDBACK: (1), (n_out, outputs), (n_out)
    T *G, *dP;            // gradients of W, changed from after to before, and of mu P unless frozen: (E, n_out, n_in)
    T *db, *dc;           // of b and c, not summed over the L numbers of a vector: (E, n_out, L)
    T *dB, *ds;           // of B, not summed either, and of s: (E, n_out, outputs, L), (E)
};

template <typename T>
struct Problem {
    int64_t layers, steps, samples, outputs, segment;  // outputs: without padding; segment: steps in each
    int64_t oja, power, linear_feedback, absolute_signal;
    const T *y;    // (E, steps, n_y, M)
    T *yhat, *dx;  // (E, steps, n_y, M), (E, steps, n_0, M) or null
    Layer<T> *layer;
};

struct Team {
    const int64_t size;
    std::atomic<int64_t> arrived{0}, round{0};

    void wait() {  // for all
        if (size == 1) return;
        const int64_t now = round;
        if (++arrived == size) {
            arrived = 0;
            round++;
        } else {
            while (round == now) std::this_thread::yield();
        }
    }
};

constexpr int64_t UNITS = 16;  // the widths of layers are multiples of this

template <typename T>
struct Lifetime {
    static constexpr int64_t L = 64 / sizeof(T);  // numbers in a vector
    typedef T V __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));

    const Problem<T> &p;
    const int64_t e, M;
    Team &team;
    int64_t rank = 0;  // of this thread in the team

    struct Rows {
        int64_t first, stop;
    };
    Rows own(int64_t n) const {  // of n rows those of this thread
        const int64_t blocks = n / UNITS;
        return {blocks * rank / team.size * UNITS, blocks * (rank + 1) / team.size * UNITS};
    }

    static V &at(T *x) { return *reinterpret_cast<V *>(x); }
    static const V &at(const T *x) { return *reinterpret_cast<const V *>(x); }
    template <int64_t bytes>
    static T sum_of(const T *x) {  // of as many numbers, by halves
        typedef T Half __attribute__((vector_size(bytes / 2), aligned(sizeof(T)), may_alias));
        const Half *half = reinterpret_cast<const Half *>(x);
        const Half both = half[0] + half[1];
        if constexpr (bytes / 2 == 16) {
            T total = 0;
            for (int64_t i = 0; i < int64_t(16 / sizeof(T)); i++) total += both[i];
            return total;
        } else {
            return sum_of<bytes / 2>(reinterpret_cast<const T *>(&both));
        }
    }
    static T sum(V v) { return sum_of<64>(reinterpret_cast<const T *>(&v)); }

    template <int R, int C, typename F>
    static void each(F f) {  // of R x C vectors; unrolled, so that they stay in registers
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) f(r, c);
    }

    // ---- products: each hands its own rows on, C vectors at a time, to a function of what becomes of them ---------

    // then(n, place, start(n) + sum_k W[n, k] X[k, m .. m + C L]), place = n M + m
    template <int C, typename Start, typename Then>
    void times_columns(const T *W, int64_t n_out, int64_t n_in, const T *X, int64_t m, Start start, Then then) const {
        constexpr int R = 8;
        const Rows rows = own(n_out);
        for (int64_t n = rows.first; n < rows.stop; n += R) {
            V z[R][C];
            each<R, C>([&](int r, int c) { z[r][c] = V{} + start(n + r); });
            for (int64_t k = 0; k < n_in; k++)
                each<R, C>([&](int r, int c) { z[r][c] += W[(n + r) * n_in + k] * at(X + k * M + m + c * L); });
            each<R, 1>([&](int r, int) { then(n + r, (n + r) * M + m, z[r]); });
        }
    }
    template <typename Start, typename Then>
    void times(const T *W, int64_t n_out, int64_t n_in, const T *X, Start start, Then then) const {
        int64_t m = 0;
        for (; m + 2 * L <= M; m += 2 * L) times_columns<2>(W, n_out, n_in, X, m, start, then);
        for (; m < M; m += L) times_columns<1>(W, n_out, n_in, X, m, start, then);
    }

    // then(k, place, X[k, m .. m + C L] + sum_n W[n, k] Z[n, m .. m + C L]), place = k M + m; without X, 0 in its place
    template <int C, typename Then>
    void transposed_columns(const T *W, int64_t n_out, int64_t n_in, const T *Z, const T *X, int64_t m, Then then) const {
        constexpr int R = 8;
        const Rows rows = own(n_in);
        for (int64_t k = rows.first; k < rows.stop; k += R) {
            V x[R][C];
            each<R, C>([&](int r, int c) { x[r][c] = X ? at(X + (k + r) * M + m + c * L) : V{}; });
            for (int64_t n = 0; n < n_out; n++)
                each<R, C>([&](int r, int c) { x[r][c] += W[n * n_in + k + r] * at(Z + n * M + m + c * L); });
            each<R, 1>([&](int r, int) { then(k + r, (k + r) * M + m, x[r]); });
        }
    }
    template <typename Then>
    void add_transposed(const T *W, int64_t n_out, int64_t n_in, const T *Z, const T *X, Then then) const {
        int64_t m = 0;
        for (; m + 2 * L <= M; m += 2 * L) transposed_columns<2>(W, n_out, n_in, Z, X, m, then);
        for (; m < M; m += L) transposed_columns<1>(W, n_out, n_in, Z, X, m, then);
    }

    // then(n, place, sum_m Q[n, m] a[m, k .. k + C L]), place = n n_in + k; a is (M, n_in).
    template <int C, typename Then>
    void outer_columns(const T *Q, int64_t n_out, const T *a, int64_t n_in, int64_t k, Then then) const {
        constexpr int R = 8;
        const Rows rows = own(n_out);
        for (int64_t n = rows.first; n < rows.stop; n += R) {
            V d[R][C] = {};
            for (int64_t m = 0; m < M; m++)
                each<R, C>([&](int r, int c) { d[r][c] += Q[(n + r) * M + m] * at(a + m * n_in + k + c * L); });
            each<R, 1>([&](int r, int) { then(n + r, (n + r) * n_in + k, d[r]); });
        }
    }
    template <typename Then>
    void outer(const T *Q, int64_t n_out, const T *a, int64_t n_in, Then then) const {
        int64_t k = 0;
        for (; k + 2 * L <= n_in; k += 2 * L) outer_columns<2>(Q, n_out, a, n_in, k, then);
        for (; k < n_in; k += L) outer_columns<1>(Q, n_out, a, n_in, k, then);
    }

    // A block of L x L numbers, transposed: its halves change places, then their halves, and so on.
    template <size_t... i>
    static V pick(V a, V b, std::index_sequence<i...>) {  // numbers of both, counted on
#ifdef __clang__
        return __builtin_shufflevector(a, b, i...);
#else
        typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index __attribute__((vector_size(64)));
        return __builtin_shuffle(a, b, Index{i...});
#endif
    }
    template <int64_t half, size_t... i>
    static void exchange(V &a, V &b, std::index_sequence<i...>) {
        const V old = a;
        a = pick(old, b, std::index_sequence<(i & half ? L + i - half : i)...>{});
        b = pick(old, b, std::index_sequence<(i & half ? L + i : i + half)...>{});
    }
    template <int64_t half>
    static void transpose_halves(V *x) {
        for (int64_t i = 0; i < L; i++)
            if (!(i & half)) exchange<half>(x[i], x[i + half], std::make_index_sequence<L>{});
        if constexpr (half > 1) transpose_halves<half / 2>(x);
    }
    static void transpose(const T *from, int64_t from_stride, T *to, int64_t to_stride) {
        V x[L];
        for (int64_t i = 0; i < L; i++) x[i] = at(from + i * from_stride);
        transpose_halves<L / 2>(x);
        for (int64_t i = 0; i < L; i++) at(to + i * to_stride) = x[i];
    }

    static V rectified(V x) { return x < 0 ? V{} : x; }  // NaN stays NaN

    // ---- what is kept ----------------------------------------------------------------------------------------------

    struct Kept {  // of a layer in a step
        T *a, *aT;       // what it receives, (n_in, M) and (M, n_in)
        T *q, *D;        // shifted activity (n_out, M); the change of weights over mu P, (n_out, n_in)
        T *r;            // sum of q^2 over samples, (n_out)
        T N;             // what divides D under power
    };
    struct Step {
        std::vector<Kept> layer;
        T *yhat, *u, *sent;  // (n_y, M); sent: u, or its absolute value
    };
    std::vector<Step> kept;
    std::vector<T *> W, P, G, dP;          // of each layer; backwards, W is that after the last step of a segment
    std::vector<T *> error, error_before;  // at each boundary between layers: of the step under way, the one before it
    T *h, *other_h, *along, *other_along;  // scratch
    T *f, *of_u;
    T *of_sent, *of_N, *other_of_N, *of_s;  // sums over rows, still to be summed over threads
    std::shared_ptr<char[]> memory;

    // The arrays; each thread has a copy of the structure, with a rank of its own.
    Lifetime(const Problem<T> &p, int64_t e, Team &team, bool backward) : p(p), e(e), M(p.samples), team(team) {
        const int64_t n_y = p.layer[p.layers - 1].n_out;
        kept.resize(backward ? p.segment : 1);
        for (auto *own : {&W, &P, &G, &dP}) own->resize(p.layers);
        error.resize(p.layers + 1), error_before.resize(p.layers + 1);
        int64_t used = 0;
        T *base = nullptr;
        auto take = [&](int64_t numbers) {
            T *place = base ? base + used : nullptr;
            used += (numbers + L - 1) / L * L;
            return place;
        };
        for (int pass = 0; pass < 2; pass++) {  // the first counts, the second gives out
            if (pass) {
                memory.reset(new char[used * sizeof(T) + 64]);
                base = reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(memory.get()) + 63) & ~uintptr_t(63));
                used = 0;
            }
            int64_t widest = 0, most = 0;
            for (int64_t l = 0; l < p.layers; l++) {
                const Layer<T> &of = p.layer[l];
                const int64_t size = of.n_in * of.n_out;
                widest = std::max(widest, of.n_out), most = std::max(most, size);
                const bool frozen = of.shift == FROZEN;
                W[l] = take(size), P[l] = take(frozen ? 0 : size);
                if (backward) G[l] = take(size), dP[l] = take(frozen ? 0 : size);
                for (Step &step : kept) {
                    step.layer.resize(p.layers);
                    Kept &own = step.layer[l];
                    if (!of.a) own.a = take(of.n_in * M);
                    own.aT = take(of.n_in * M);
                    if (frozen) continue;
                    own.q = take(of.n_out * M), own.r = take(of.n_out);
                    own.D = backward ? take(size) : nullptr;
                }
                if (backward) error[l] = take(of.n_in * M), error_before[l] = take(of.n_in * M);
            }
            for (Step &step : kept) step.u = take(n_y * M), step.sent = take(n_y * M);
            if (!backward) continue;
            for (T **own : {&error[p.layers], &error_before[p.layers], &of_u}) *own = take(n_y * M);
            h = take(most), other_h = take(most), f = take(widest * M);
            along = take(widest * L), other_along = take(widest * L);
            of_sent = take(team.size * n_y * M);
            of_N = take(team.size), other_of_N = take(team.size), of_s = take(team.size * p.layers);
        }
    }

    // ---- one step -------------------------------------------------------------------------------------------------

    T *after(Step &step, int64_t l) const { return l + 1 < p.layers ? step.layer[l + 1].a : step.yhat; }

    // Activities.
    void forward(Step &now) {
        for (int64_t l = 0; l < p.layers; l++) {
            const bool last = l + 1 == p.layers;
            const Layer<T> &of = p.layer[l];
            T *z = after(now, l), *soon = last ? z : after(now, l + 1);
            times(
                W[l], of.n_out, of.n_in, now.layer[l].a, [b = of.b](int64_t n) { return b[n]; },
                [=](int64_t, int64_t i, auto &row) {
                    for (V v : row) __builtin_prefetch(soon + i, 1), at(z + i) = last ? v : rectified(v), i += L;
                });
            team.wait();
        }
    }

    // Where activities of step k are, or are to be.
    void look_at(int64_t k, Step &now) const {
        const int64_t step = e * p.steps + k;
        now.yhat = p.yhat + step * p.layer[p.layers - 1].n_out * M;
        for (int64_t l = 0; l < p.layers; l++)
            if (p.layer[l].a) now.layer[l].a = p.layer[l].a + step * p.layer[l].n_in * M;
    }

    // The changes of step k.
    void change(int64_t k, Step &now) {
        const int64_t n_y = p.layer[p.layers - 1].n_out;
        const T *y = p.y + (e * p.steps + k) * n_y * M;
        for (int64_t i = own(n_y).first * M; i < own(n_y).stop * M; i += L) {
            const V u = at(y + i) - at(now.yhat + i);
            at(now.u + i) = u;
            at(now.sent + i) = p.absolute_signal ? (u < 0 ? -u : u) : u;
        }
        team.wait();
        for (int64_t l = 0; l < p.layers; l++) shift(l, now);
        team.wait();
        for (int64_t l = 0; l < p.layers; l++) {
            const Layer<T> &of = p.layer[l];
            const bool more = of.a && k + 1 < p.steps;
            if (of.shift != FROZEN) change_layer(l, now, more ? of.a + (e * p.steps + k + 1) * of.n_in * M : now.layer[l].a);
        }
        team.wait();
    }

    // f, handed on as then(n, place, f)
    template <typename Then>
    void feed_back(const Layer<T> &of, const Step &now, Then then) const {
        const bool linear = p.linear_feedback;
        times(
            of.B, of.n_out, p.outputs, now.sent, [c = of.c](int64_t n) { return c[n]; },
            [=](int64_t n, int64_t place, auto &row) {
                if (!linear)
                    for (V &f : row) f = rectified(f);
                then(n, place, row);
            });
    }

    void shift(int64_t l, Step &now) {  // q, and what else the change needs
        const Layer<T> &of = p.layer[l];
        Kept &kept = now.layer[l];
        const T *a = after(now, l), *u = now.u;
        T *q = kept.q;
        const Rows inputs = own(of.n_in);
        for (int64_t i = inputs.first; i < inputs.stop; i += L)
            for (int64_t m = 0; m < M; m += L) transpose(kept.a + i * M + m, M, kept.aT + m * of.n_in + i, of.n_in);
        if (of.shift == FROZEN) return;
        const Rows rows = own(of.n_out);
        T *r = kept.r;
        std::fill(r + rows.first, r + rows.stop, T(0));
        if (of.shift == FEEDBACK) {
            const T s = *of.s;
            feed_back(of, now, [=](int64_t n, int64_t i, auto &row) {
                V squares{};
                for (V f : row) {
                    const V shifted = at(a + i) + s * (f - at(a + i));
                    at(q + i) = shifted;
                    squares += shifted * shifted, i += L;
                }
                r[n] += sum(squares);
            });
        } else {
            const T *from = of.shift == SIGNAL ? u : a;
            for (int64_t n = rows.first; n < rows.stop; n++) {
                V squares{};
                for (int64_t i = n * M; i < (n + 1) * M; i += L)
                    at(q + i) = at(from + i), squares += at(q + i) * at(q + i);
                r[n] = sum(squares);
            }
        }
    }

    // W <- W + mu P D; soon: the activities of the next step, (n_in, M).
    void change_layer(int64_t l, Step &now, const T *soon) {
        const Layer<T> &of = p.layer[l];
        Kept &own = now.layer[l];
        own.N = 1;
        if (p.power) {
            V squares[4] = {};  // a sum waits for the one before it
            for (int64_t i = 0; i < of.n_in * M; i += 4 * L)
                each<4, 1>([&](int r, int) { squares[r] += at(own.a + i + r * L) * at(own.a + i + r * L); });
            for (int64_t n = 0; n < of.n_out; n += L) squares[0] += at(own.r + n);
            const T power = sum(squares[0] + squares[1] + (squares[2] + squares[3]));
            own.N = power < T(1e-8) ? T(1e-8) : power;
        }
        // Copies, since the compiler has to take it that what is written may be the structures.
        const T share = 1 / own.N, oja = p.oja, *P = this->P[l], *r = own.r;
        T *W = this->W[l], *kept = own.D;
        const int64_t of_soon = 2 * L * M / of.n_out;  // for two vectors of a row
        outer(own.q, of.n_out, own.aT, of.n_in, [&](int64_t n, int64_t place, auto &Ds) {
            __builtin_prefetch(soon), soon += of_soon;
            const T r_n = oja * r[n];
            for (V D : Ds) {
                D = share * (D - r_n * at(W + place));
                if (kept) at(kept + place) = D;
                at(W + place) += at(P + place) * D;
                place += L;
            }
        });
    }

    // ---- and back -------------------------------------------------------------------------------------------------

    // Through the change of a step alone, place by place: g is the gradient of W after it, at a place of row n.
    struct Change {
        T *G, *dP, *h, *along, *W;
        const T *P, *D, *r;
        T share;
        bool oja;
        V of_N;
        const T *x, *q;  // are needed soon: what the layer receives, and its shifted activity
        int64_t of_soon;

        template <size_t C>
        void operator()(int64_t n, int64_t place, V (&gs)[C]) {
            __builtin_prefetch(x), x += of_soon;
            __builtin_prefetch(q), q += of_soon;
            V W_D{};
            const T r_n = r[n];
            for (V g : gs) {
                g += at(G + place);
                const V P = at(this->P + place), D = at(this->D + place), before = at(W + place) - P * D;
                const V of_D = share * g * P;
                at(W + place) = before;
                at(dP + place) += g * D;
                at(h + place) = of_D;
                of_N += of_D * D;
                W_D += of_D * before;
                at(G + place) = oja ? g - r_n * of_D : g;
                place += L;
            }
            if (oja) at(along + n * L) += W_D;
        }
    };

    // Through the change of a layer in a step. G is the gradient of W after it, but for what comes of the next step's dz
    // and activities a, (M, n_in), if they are given; it becomes that of W before it.
    void back_change(int64_t l, Step &step, const T *dz, const T *a) {
        const Layer<T> &of = p.layer[l];
        const Kept &kept = step.layer[l];
        const Rows rows = own(of.n_out);
        // Other threads may still read those of the last call.
        std::swap(h, other_h), std::swap(along, other_along), std::swap(of_N, other_of_N);
        std::fill(along + rows.first * L, along + rows.stop * L, T(0));
        Change change{G[l], dP[l], h, along, W[l], P[l], kept.D, kept.r, 1 / kept.N, bool(p.oja), V{},
                      kept.a, kept.q, 2 * L * M / std::max(of.n_out, of.n_in)};
        V none[1] = {};
        if (dz)
            outer(dz, of.n_out, a, of.n_in, [&](int64_t n, int64_t i, auto &g) { change(n, i, g); });
        else
            for (int64_t i = rows.first * of.n_in; i < rows.stop * of.n_in; i += L)
                change(i / of.n_in, i, none);
        for (int64_t n = rows.first; n < rows.stop; n++) along[n * L] = sum(at(along + n * L));
        this->of_N[rank] = sum(change.of_N);
        team.wait();
        T of_N = 0;  // the gradient of N, times -N
        for (int64_t i = 0; p.power && i < team.size; i++) of_N += this->of_N[i];

        // Layers come from the last to the first: this one is the first to write to the error before it.
        T *before = error_before[l], *after_it = error_before[l + 1], *of_u = this->of_u;
        const T *x = kept.a, *q = kept.q, *h = this->h, *along = this->along;
        add_transposed(h, of.n_out, of.n_in, q, nullptr, [=](int64_t, int64_t i, auto &row) {
            for (V g : row) at(before + i) = g - 2 * of_N * at(x + i), i += L;
        });
        auto back_q = [&](auto then) {  // hands on the gradient of q
            times(
                h, of.n_out, of.n_in, x, [](int64_t) { return T(0); },
                [=](int64_t n, int64_t i, auto &row) {
                    const T both = 2 * (along[n * L] + of_N);
                    int64_t place = i;
                    for (V &g : row) g -= both * at(q + place), place += L;
                    then(n, i, row);
                });
        };
        if (of.shift != FEEDBACK) {
            T *shifted_from = of.shift == SIGNAL ? of_u : after_it;
            return back_q([=](int64_t, int64_t i, auto &row) {
                for (V g : row) at(shifted_from + i) += g, i += L;
            });
        }
        const T s = *of.s, *B = of.B, *sent = step.sent, *y = after(step, l);
        const bool linear = p.linear_feedback;
        const int64_t outputs = p.outputs;
        T *f = this->f, *of_sent = this->of_sent + rank * p.layer[p.layers - 1].n_out * M, *dc = of.dc + e * of.n_out * L, *dB = of.dB + e * of.n_out * outputs * L;
        V of_s{};
        feed_back(of, step, [=](int64_t, int64_t i, auto &row) { for (V brought : row) at(f + i) = brought, i += L; });
        back_q([=, &of_s](int64_t n, int64_t i, auto &row) {
            int64_t place = i;
            V total{};
            for (V &g : row) {
                of_s += g * (at(f + place) - at(y + place));
                at(after_it + place) += (1 - s) * g;
                g = linear ? s * g : at(f + place) <= 0 ? V{} : s * g;  // now of what feedback brought, before its rectifier
                at(f + place) = g;
                total += g;
                place += L;
            }
            at(dc + n * L) += total;
            for (int64_t j = 0; j < outputs; j++) {
                V of_B{};
                int64_t m = j * M + i - n * M;
                for (V g : row) of_B += g * at(sent + m), m += L;
                at(dB + (n * outputs + j) * L) += of_B;
            }
        });
        for (int64_t j = 0; j < outputs; j++)
            for (int64_t m = 0; m < M; m += L) {
                V sums[4] = {};
                for (int64_t n = rows.first; n < rows.stop; n += 4)
                    for (int64_t r = 0; r < 4; r++) sums[r] += B[(n + r) * outputs + j] * at(f + (n + r) * M + m);
                at(of_sent + j * M + m) += sums[0] + sums[1] + (sums[2] + sums[3]);
            }
        this->of_s[rank * p.layers + l] += sum(of_s);
    }

    // Through a layer of step k, from the error dz of what it answers to that of what it receives.
    void back_layer(int64_t k, int64_t l, const Step &step) {
        const Layer<T> &of = p.layer[l];
        const T *W = this->W[l], *a = step.layer[l].a, *dz = error[l + 1];
        T *to = error[l];
        if (l > 0) {
            T *db = p.layer[l - 1].db + e * of.n_in * L;
            add_transposed(W, of.n_out, of.n_in, dz, to, [=](int64_t n, int64_t i, auto &row) {
                V total{};
                for (V g : row) {
                    g = at(a + i) <= 0 ? V{} : g;
                    at(to + i) = g;
                    total += g, i += L;
                }
                at(db + n * L) += total;
            });
        } else if (p.dx) {
            T *dx = p.dx + (e * p.steps + k) * of.n_in * M;
            add_transposed(W, of.n_out, of.n_in, dz, to, [=](int64_t, int64_t i, auto &row) { for (V g : row) at(dx + i) = g, i += L; });
        }
    }

    // That of the weights of a layer in a step, from what it receives and the error of what it answers.
    void add_gradient(int64_t l, const Step &step) {
        const Layer<T> &of = p.layer[l];
        T *G = this->G[l];
        outer(error[l + 1], of.n_out, step.layer[l].aT, of.n_in, [=](int64_t, int64_t i, auto &row) {
            for (V g : row) at(G + i) += g, i += L;
        });
    }

    // From the last step of a segment to the first.
    void back(int64_t first, int64_t count) {
        const int64_t last = p.layers - 1, n_y = p.layer[last].n_out;
        const Rows rows = own(n_y);
        for (int64_t i = count - 1; i >= 0; i--) {  // through the changes of step i and the layers of step i + 1
            const Step *next = i + 1 < count ? &kept[i + 1] : nullptr;
            for (T *zero : {error_before[p.layers], of_u})
                std::fill(zero + rows.first * M, zero + rows.stop * M, T(0));
            std::fill(of_sent + rank * n_y * M, of_sent + (rank + 1) * n_y * M, T(0));
            for (int64_t l = last; l >= 0; l--) {
                if (next) back_layer(first + i + 1, l, *next), team.wait();
                if (p.layer[l].shift == FROZEN) {
                    if (next) add_gradient(l, *next);
                    const Rows inputs = own(p.layer[l].n_in);
                    std::fill(error_before[l] + inputs.first * M, error_before[l] + inputs.stop * M, T(0));
                    continue;
                }
                back_change(l, kept[i], next ? error[l + 1] : nullptr, next ? next->layer[l].aT : nullptr);
            }
            team.wait();
            T *of_y = error_before[p.layers], *db = p.layer[last].db + e * n_y * L;
            for (int64_t j = rows.first * M; j < rows.stop * M; j += L) {  // u = y - yhat
                V g = at(of_sent + j);
                for (int64_t other = 1; other < team.size; other++) g += at(of_sent + other * n_y * M + j);
                const V u = at(kept[i].u + j);
                const V of_signal = !p.absolute_signal ? g : u < 0 ? -g : u > 0 ? g : V{};
                at(of_y + j) -= at(of_u + j) + of_signal;
                at(db + j / M * L) += at(of_y + j);
            }
            std::swap(error, error_before);
            team.wait();
        }
        for (int64_t l = last; l >= 0; l--) {
            add_gradient(l, kept[0]);
            back_layer(first, l, kept[0]);
            team.wait();
        }
    }

    // ---- all steps ------------------------------------------------------------------------------------------------

    int64_t size(int64_t l) const { return p.layer[l].n_out * p.layer[l].n_in; }
    void copy(int64_t l, const T *from, T *to) const {  // own rows of weights
        const Rows rows = own(p.layer[l].n_out);
        std::copy(from + rows.first * p.layer[l].n_in, from + rows.stop * p.layer[l].n_in, to + rows.first * p.layer[l].n_in);
    }
    T *start(int64_t l, int64_t segment) const {
        return p.layer[l].starts + (e * ((p.steps + p.segment - 1) / p.segment) + segment) * size(l);
    }

    // W and P of all layers; backwards, W of those that change comes from the starts of segments.
    void load() {
        for (int64_t l = 0; l < p.layers; l++) {
            if (p.layer[l].W) copy(l, p.layer[l].W + e * size(l), W[l]);
            if (p.layer[l].shift != FROZEN) copy(l, p.layer[l].P, P[l]);
        }
    }

    void live() {
        load();
        for (int64_t k = 0; k < p.steps; k++) {
            if (k % p.segment == 0)
                for (int64_t l = 0; l < p.layers; l++)
                    if (p.layer[l].starts) copy(l, W[l], start(l, k / p.segment));
            look_at(k, kept[0]);
            forward(kept[0]);
            change(k, kept[0]);
        }
        for (int64_t l = 0; l < p.layers; l++)
            if (p.layer[l].shift != FROZEN) copy(l, W[l], p.layer[l].W + e * size(l));
    }

    void differentiate() {
        load();
        for (int64_t l = 0; l < p.layers; l++) {
            copy(l, p.layer[l].G + e * size(l), G[l]);
            if (p.layer[l].shift == FROZEN) continue;
            const Rows rows = own(p.layer[l].n_out);
            std::fill(dP[l] + rows.first * p.layer[l].n_in, dP[l] + rows.stop * p.layer[l].n_in, T(0));
            of_s[rank * p.layers + l] = 0;
        }
        for (int64_t segment = (p.steps - 1) / p.segment; segment >= 0; segment--) {
            const int64_t first = segment * p.segment, count = std::min(p.segment, p.steps - first);
            for (int64_t l = 0; l < p.layers; l++)
                if (p.layer[l].starts) copy(l, start(l, segment), W[l]);
            for (int64_t i = 0; i < count; i++) {
                look_at(first + i, kept[i]);
                change(first + i, kept[i]);
            }
            back(first, count);
        }
        for (int64_t l = 0; l < p.layers; l++) {
            copy(l, G[l], p.layer[l].G + e * size(l));
            if (p.layer[l].shift != FROZEN) copy(l, dP[l], p.layer[l].dP + e * size(l));
        }
        team.wait();
        for (int64_t l = 0; rank == 0 && l < p.layers; l++)
            for (int64_t i = 0; p.layer[l].shift == FEEDBACK && i < team.size; i++) p.layer[l].ds[e] += of_s[i * p.layers + l];
    }
};

template <typename T>
void together(const Problem<T> &p, int64_t e, int64_t threads, bool backward) {
    Team team{threads};
    const Lifetime<T> arrays(p, e, team, backward);
    auto work = [&](int64_t rank) {
        Lifetime<T> own = arrays;
        own.rank = rank;
        backward ? own.differentiate() : own.live();
    };
    std::vector<std::thread> others;
    for (int64_t rank = 1; rank < threads; rank++) others.emplace_back(work, rank);
    work(0);
    for (std::thread &other : others) other.join();
}

}  // namespace

extern "C" {
void live_float(const Problem<float> *p, int64_t e, int64_t threads) { together(*p, e, threads, false); }
void live_double(const Problem<double> *p, int64_t e, int64_t threads) { together(*p, e, threads, false); }
void differentiate_float(const Problem<float> *p, int64_t e, int64_t threads) { together(*p, e, threads, true); }
void differentiate_double(const Problem<double> *p, int64_t e, int64_t threads) { together(*p, e, threads, true); }
}

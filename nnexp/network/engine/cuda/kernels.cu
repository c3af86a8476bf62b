// Draw and train networks on a CUDA device with the bits of the compiled engine.
//
// The functions are those of elementary.py, draws.py, passes.py, evaluation.py, epochs.py and kernel.py, by the same
// names, with the same operations and every sum in the same order. Compile it without fused multiply-adds.
//
// There are two arrangements, as in the engine. If networks are small, each thread trains one by itself, and the
// threads of a block keep their numbers side by side. If they are `wide`, the threads of a block train one together.

// --- Numbers and bits.

#define FUNCTION static __device__ __forceinline__

FUNCTION unsigned long long bits(double x) { return __double_as_longlong(x); }

FUNCTION double from_bits(unsigned long long i) { return __longlong_as_double(i); }

FUNCTION double if_greater(double x, double y, double a, double b) { return x > y ? a : b; }

FUNCTION bool is_finite(double x) { return (bits(x) & 0x7FF0000000000000ULL) != 0x7FF0000000000000ULL; }

FUNCTION int smaller(long long a, long long b) { return (int)(a < b ? a : b); }

// A thread's number among all threads, and how many they are.
FUNCTION long long this_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

FUNCTION long long all_threads() { return (long long)gridDim.x * blockDim.x; }

// --- elementary.py

#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42fefa0000p-1
#define LN2_LOW 0x1.cf79abc9e3b3ap-40
#define TWO_THIRDS (2.0 / 3.0)
#define TWO_THIRDS_LOW 3.700743415417188e-17
#define ROUNDER 6755399441055744.0
#define BITS_OF_1 0x3FF0000000000000ULL
#define INFINITE from_bits(0x7FF0000000000000ULL)
#define NOT_A_NUMBER from_bits(0x7FF8000000000000ULL)

FUNCTION double power_of_2(double rounded) { return from_bits((bits(rounded) << 52) + BITS_OF_1); }

FUNCTION double tail(double r) {
    double r2 = r * r;
    double p01 = 0.5 + r * 0.1666666666666667;
    double p23 = 0.04166666666666667 + r * 0.008333333333326136;
    double p45 = 0.0013888888888883748 + r * 0.00019841269874820627;
    double p67 = 2.4801587325547743e-05 + r * 2.7557255400206422e-06;
    double p89 = 2.75572736431103e-07 + r * 2.5105217004720745e-08;
    double high = (p45 + r2 * p67) + (r2 * r2) * (p89 + r2 * 2.0914686968086876e-09);
    return (p01 + r2 * p23) + (r2 * r2) * high;
}

FUNCTION void reduced(double x, double &k, double &r, double &c) {
    k = (x * LOG2_E + ROUNDER) - ROUNDER;
    double high = x - k * LN2_HIGH;
    double low = k * LN2_LOW;
    r = high - low;
    double rounding = (high - r) - low;
    c = rounding + (r * r) * tail(r);
}

FUNCTION double exp_of(double x) {
    x = if_greater(x, 710.0, 710.0, x);
    x = if_greater(-746.0, x, -746.0, x);
    double k, r, c;
    reduced(x, k, r, c);
    double half = k * 0.5 + ROUNDER;
    double other_half = (k - (half - ROUNDER)) + ROUNDER;
    return (1.0 + (r + c)) * power_of_2(half) * power_of_2(other_half);
}

FUNCTION double log_of(double x) {
    double is_tiny = if_greater(0x1p-1022, x, 1.0, 0.0);
    double scaled = x * (1.0 + is_tiny * (0x1p54 - 1.0));
    double exponent = from_bits((bits(scaled) >> 52) | 0x4330000000000000ULL) - (0x1p52 + 1023.0);
    double m = from_bits((bits(scaled) & 0xFFFFFFFFFFFFFULL) | BITS_OF_1);
    double is_large = if_greater(m, 1.4142135623730951, 1.0, 0.0);
    m = m * (1.0 - 0.5 * is_large);
    double k = exponent + is_large - 54.0 * is_tiny;
    double f = m - 1.0;
    double s = f / (2.0 + f);
    double u = s * s;
    double u2 = u * u;
    double r01 = 0.6666666666666666 + u * 0.40000000000000885;
    double r23 = 0.28571428570799784 + u * 0.22222222392581045;
    double r45 = 0.18181795547521137 + u * 0.15386244737621665;
    double r67 = 0.13268638369266825 + u * 0.13088034850927555;
    double rest = u * ((r01 + u2 * r23) + (u2 * u2) * (r45 + u2 * r67));
    double result = k * LN2_HIGH + (f - (s * (f - rest) - k * LN2_LOW));
    result = if_greater(x, 0.0, result, -INFINITE);
    result = if_greater(0.0, x, NOT_A_NUMBER, result);
    return if_greater(INFINITE, x, result, x);
}

FUNCTION void halves(double x, double &high, double &low) {
    double scaled = x * (0x1p27 + 1.0);
    high = scaled - (scaled - x);
    low = x - high;
}

FUNCTION double product(double x, double y, double &low) {
    double x_high, x_low, y_high, y_low;
    halves(x, x_high, x_low);
    halves(y, y_high, y_low);
    double rounded = x * y;
    low = ((x_high * y_high - rounded) + x_high * y_low + x_low * y_high) + x_low * y_low;
    return rounded;
}

FUNCTION double close_log(double x) {
    double exponent = from_bits((bits(x) >> 52) | 0x4330000000000000ULL) - (0x1p52 + 1023.0);
    double m = from_bits((bits(x) & 0xFFFFFFFFFFFFFULL) | BITS_OF_1);
    double is_large = if_greater(m, 1.4142135623730951, 1.0, 0.0);
    m = m * (1.0 - 0.5 * is_large);
    double k = exponent + is_large;
    double f = m - 1.0;
    double d = f + 2.0;
    double s = f / d;
    double sd_low, u_low, scaled_low, cube_low;
    double sd = product(s, d, sd_low);
    double s_low = (((f - sd) - sd_low) - s * (f - (d - 2.0))) / d;
    double u = product(s, s, u_low);
    double scaled = product(u, TWO_THIRDS, scaled_low);
    double cube = product(s, scaled, cube_low);
    cube_low = cube_low + s * (scaled_low + (u * TWO_THIRDS_LOW + u_low * TWO_THIRDS));
    double u2 = u * u;
    double r01 = 0.40000000000000024 + u * 0.2857142857133851;
    double r23 = 0.2222222227110234 + u * 0.18181808247544543;
    double r45 = 0.15385574796462032 + u * 0.13285957435193352;
    double rest = (r01 + u2 * r23) + (u2 * u2) * (r45 + u2 * 0.1291361767218225);
    double small = 2.0 * s_low * (1.0 + u) + s * u2 * rest;
    double high = k * LN2_HIGH;
    double result = high + 2.0 * s;
    double low = (high - result) + 2.0 * s;
    return result + ((low + k * LN2_LOW) + (cube + (cube_low + small)));
}

FUNCTION double log1p_of(double x) {
    double u = 1.0 + x;
    return log_of(u) + (x - (u - 1.0)) / u;
}

FUNCTION double sigmoid(double z) {
    z = if_greater(z, 708.0, 708.0, z);
    z = if_greater(-708.0, z, -708.0, z);
    double rounded = z * -LOG2_E + ROUNDER;
    double k = rounded - ROUNDER;
    double r = (k * -LN2_HIGH - z) - k * LN2_LOW;
    double power = 1.0 + (r + (r * r) * tail(r));
    return 1.0 / (1.0 + from_bits(bits(power) + (bits(rounded) << 52)));
}

FUNCTION double tanh_of(double x) {
    unsigned long long sign = bits(x) & (1ULL << 63);
    x = from_bits(bits(x) - sign);
    x = if_greater(x, 20.0, 20.0, x);
    double k, r, c;
    reduced(-2.0 * x, k, r, c);
    double scale = power_of_2(k + ROUNDER);
    double first = (scale - 1.0) + scale * r;
    double rest = (scale * r - (first - (scale - 1.0))) + scale * c;
    double e = first + rest;
    double e_low = rest - (e - first);
    double d = e + 2.0;
    double d_low = (e - (d - 2.0)) + e_low;
    double t = (0.0 - e) / d;
    t = t - (e_low + t * d_low) * (0.5 + 0.5 * t);
    return from_bits(bits(t) | sign);
}

// --- draws.py. A thread draws from a run's stream by itself.

typedef unsigned int Word;

enum { WORDS = 624, DISTANCE = 397 };
#define UPPER 0x80000000u
#define LOWER 0x7FFFFFFFu
#define MATRIX 0x9908B0DFu
#define BEFORE_AN_ARRAY 19650218u

enum { NORMAL, UNIFORM, CONSTANT };

// What the draws.py beside this file hands over: the fields of its DRAWING, eight bytes each.
struct Drawing {
    Word *state;
    long long *position;
    long long n_streams;
    const long long *seeds;
    long long seed_length;  // the words of each stream's seed if it is an array, or else 0
    // Initial weights: each run's initialisation, and of each initialisation what it says of each part of the weights.
    const long long *which, *kinds;
    const double *scales, *firsts;  // the second: of each part's first weight, if it is constant
    const long long *ends;  // by part: where it ends among the weights
    long long n_parts;
    double *weights, *best_weights;  // the second is null if no run has patience
    long long run_step, weight_step;
    // Orders of rows: those of one run after another, and room for as many keys and ends of buckets.
    double *keys;
    int *bucket_ends, *order;
    long long epochs, n;
};

// A run's stream. Its words lie as far apart as there are streams, so that threads read neighbouring ones.
struct Stream {
    Word *words;
    long long step;
    __device__ Word &operator[](int i) const { return words[i * step]; }
};

FUNCTION Stream stream(const Drawing &by, long long run) { return {by.state + run, by.n_streams}; }

FUNCTION Word folded(Word word) { return word ^ (word >> 30); }

FUNCTION void seed(Stream words, Word first) {
    words[0] = first;
    for (int i = 1; i < WORDS; i++) words[i] = 1812433253u * folded(words[i - 1]) + i;
}

FUNCTION void mix_in(Stream words, const long long *array, int length) {
    int i = 1, j = 0;
    for (int count = length > WORDS ? length : WORDS; count > 0; count--) {
        words[i] = (words[i] ^ (folded(words[i - 1]) * 1664525u)) + (Word)array[j] + j;
        i++;
        j++;
        if (i == WORDS) {
            words[0] = words[WORDS - 1];
            i = 1;
        }
        if (j == length) j = 0;
    }
    for (int count = WORDS - 1; count > 0; count--) {
        words[i] = (words[i] ^ (folded(words[i - 1]) * 1566083941u)) - i;
        i++;
        if (i == WORDS) {
            words[0] = words[WORDS - 1];
            i = 1;
        }
    }
    words[0] = UPPER;
}

FUNCTION Word word(Stream words, int at) {
    int after = at + 1 < WORDS ? at + 1 : 0;
    int distant = at + DISTANCE < WORDS ? at + DISTANCE : at + DISTANCE - WORDS;
    Word y = (words[at] & UPPER) | (words[after] & LOWER);
    y = words[distant] ^ (y >> 1) ^ (y & 1 ? MATRIX : 0);
    words[at] = y;
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
}

FUNCTION double random(Stream words, int &at) {
    unsigned long long high = word(words, at) >> 5, low = word(words, at + 1) >> 6;
    at = at + 2 < WORDS ? at + 2 : 0;
    return (double)((high << 26) + low) * 0x1p-53;
}

FUNCTION void normal_pair(Stream words, int &at, double &one, double &other) {
    double x1, x2, square;
    do {
        x1 = 2.0 * random(words, at) - 1.0;
        x2 = 2.0 * random(words, at) - 1.0;
        square = x1 * x1 + x2 * x2;
    } while (!(0.0 < square && square < 1.0));
    double radius = sqrt(-2.0 * close_log(square) / square);
    one = x2 * radius;
    other = x1 * radius;
}

FUNCTION void sort_rows(const double *keys, int *ends, int *order, int n) {
    for (int i = 0; i < n; i++) ends[i] = 0;
    for (int i = 0; i < n; i++) ends[(int)(keys[i] * n)]++;
    for (int i = 1; i < n; i++) ends[i] += ends[i - 1];
    for (int i = n - 1; i >= 0; i--) order[--ends[(int)(keys[i] * n)]] = i;
    for (int i = 1; i < n; i++) {
        int row = order[i], place = i;
        for (; place > 0 && keys[order[place - 1]] > keys[row]; place--) order[place] = order[place - 1];
        order[place] = row;
    }
}

extern "C" __global__ void seed_streams(const Drawing by) {
    for (long long run = this_thread(); run < by.n_streams; run += all_threads()) {
        Stream words = stream(by, run);
        seed(words, by.seed_length ? BEFORE_AN_ARRAY : (Word)by.seeds[run]);
        if (by.seed_length) mix_in(words, by.seeds + run * by.seed_length, by.seed_length);
        by.position[run] = 0;
    }
}

// Draw each run's initial weights, as Initial in initial.py does.
extern "C" __global__ void draw_weights(const Drawing by) {
    for (long long run = this_thread(); run < by.n_streams; run += all_threads()) {
        Stream words = stream(by, run);
        const long long *kinds = by.kinds + by.which[run] * by.n_parts;
        const double *scales = by.scales + by.which[run] * by.n_parts;
        const double *firsts = by.firsts + by.which[run] * by.n_parts;
        int at = by.position[run], i = 0;
        double left = 0.0;  // the second number of a pair
        bool is_left = false;
        for (int part = 0; part < by.n_parts; part++) {
            double scale = scales[part];
            for (bool is_first = true; i < by.ends[part]; i++, is_first = false) {
                double x = is_first ? firsts[part] : scale;
                if (kinds[part] == UNIFORM) {
                    x = -scale + (scale - -scale) * random(words, at);
                } else if (kinds[part] == NORMAL) {
                    double number = left;
                    if (!is_left) normal_pair(words, at, number, left);
                    is_left = !is_left;
                    x = scale * number;
                }
                long long place = run * by.run_step + i * by.weight_step;
                by.weights[place] = x;
                if (by.best_weights) by.best_weights[place] = x;
            }
        }
        by.position[run] = at;
    }
}

// Draw a key for each row of each epoch.
extern "C" __global__ void draw_keys(const Drawing by) {
    for (long long run = this_thread(); run < by.n_streams; run += all_threads()) {
        Stream words = stream(by, run);
        double *keys = by.keys + run * by.epochs * by.n;
        int at = by.position[run];
        for (long long i = 0; i < by.epochs * by.n; i++) keys[i] = random(words, at);
        by.position[run] = at;
    }
}

// Sort the rows of each epoch by their keys. Each thread sorts another epoch, so that few runs have many threads.
extern "C" __global__ void draw_orders(const Drawing by) {
    for (long long epoch = this_thread(); epoch < by.n_streams * by.epochs; epoch += all_threads()) {
        long long first = epoch * by.n;
        sort_rows(by.keys + first, by.bucket_ends + first, by.order + first, by.n);
    }
}

// --- layout.py

enum { SIGMOID, TANH, RELU, IDENTITY, SOFTMAX };
enum { MSE, BCE, CROSS_ENTROPY };
enum { SGD, MOMENTUM, ADAM, ADAMW };

// What `training.py` hands over: the fields of its Arguments, eight bytes each.
struct Arguments {
    // The shape, by layer; sizes, input first. W begins at `places` in a block's memory.
    const long long *sizes, *weights_at, *biases_at, *outputs_at, *activations, *places, *bias_places;
    const long long *parts;  // where the parts of a block's memory begin
    long long n_layers, n_weights, loss, optimizer, has_decay, batch_size, rows, is_classification, is_articles;
    const double *x, *y;
    long long n, is_shared;  // whether all runs share the samples
    const double *x_val, *y_val;
    long long n_val, val_is_shared;
    // The runs. Weight j of run i is number i * run_step + j * weight_step.
    double *weights, *first_moment, *second_moment, *best_weights;
    long long run_step, weight_step;
    double *powers;
    const double *learning_rate, *options;
    const long long *epochs, *patience;
    long long *diverged, *stopped, *best_epoch;
    double *best_loss;
    // This call.
    const int *order;
    long long order_step;  // from one run's order to the next one's; 0 if the rows are not shuffled
    const long long *active;
    long long n_active, epoch, until;
    const long long *log_epochs;
    long long n_logged;
    double *records, *scratch;
    long long scratch_step;  // from one block's to the next one's
};

typedef const Arguments &Net;

struct Samples {
    const double *x, *y;
    int n, fan_in, width;
    bool shared;
};

// Some of a run's numbers in a block's memory.
template <bool wide> struct Numbers {
    double *first;
    __device__ double &operator[](int i) const { return first[wide ? i : i * (int)blockDim.x]; }
    __device__ Numbers from(int i) const { return {&(*this)[i]}; }
};

// Some of a run's numbers among those of all runs.
struct Column {
    double *first;
    long long step;
    __device__ double &operator[](int i) const { return first[i * step]; }
};

template <bool wide> struct Block {
    Numbers<wide> w, a, d, z, x, y, sums, grad;
    Column m, v;
    double rate, options[4], powers[2];
};

// --- Threads.

// A thread's number among those that train a run together, and how many they are.
template <bool wide> FUNCTION int thread() { return wide ? threadIdx.x : 0; }

template <bool wide> FUNCTION int threads() { return wide ? blockDim.x : 1; }

// Wait until all of them are here and see what the others have written.
template <bool wide> FUNCTION void meet() {
    if (wide) __syncthreads();
}

// Return whether x is true for any of them.
template <bool wide> FUNCTION bool any(bool x) { return wide ? __syncthreads_or(x) : x; }

// A thread of a wide network computes so many neighbouring sums at a time, so that it loads fewer numbers.
template <bool wide> struct Tile {
    static const int size = wide ? 4 : 1;
};

// --- passes.py

FUNCTION double activate(int function, double z) {
    if (function == SIGMOID) return sigmoid(z);
    if (function == TANH) return tanh_of(z);
    if (function == RELU) return if_greater(0.0, z, 0.0, z);
    return z;
}

FUNCTION double derive(int function, double out, double d) {
    if (function == SIGMOID) return d * (out * (1.0 - out));
    if (function == TANH) return d * (1.0 - out * out);
    if (function == RELU) return if_greater(out, 0.0, d, 0.0);
    return d;
}

template <bool wide> FUNCTION double largest(Numbers<wide> z, int width) {
    double top = z[0];
    for (int k = 1; k < width; k++) top = if_greater(z[k], top, z[k], top);
    return top;
}

template <bool wide> FUNCTION void softmax(Numbers<wide> z, Numbers<wide> a, int rows, int width) {
    for (int r = thread<wide>(); r < rows; r += threads<wide>()) {
        Numbers<wide> own = a.from(r * width);
        double top = largest(z.from(r * width), width), scale = 0.0;
        for (int k = 0; k < width; k++) {
            double power = exp_of(z[r * width + k] - top);
            scale = scale + power;
            own[k] = power;
        }
        for (int k = 0; k < width; k++) own[k] = own[k] / scale;
    }
}

template <bool wide> FUNCTION void derive_softmax(Numbers<wide> a, Numbers<wide> d, int rows, int width) {
    for (int r = thread<wide>(); r < rows; r += threads<wide>()) {
        double mean = 0.0;
        for (int i = r * width; i < (r + 1) * width; i++) mean = mean + d[i] * a[i];
        for (int i = r * width; i < (r + 1) * width; i++) d[i] = a[i] * (d[i] - mean);
    }
}

// The rows of W lie an odd number of numbers apart in a wide network, so that threads which read the same input's
// weights of neighbouring neurons do not wait for each other.
template <bool wide> FUNCTION int row_step(int fan_in) { return wide ? fan_in | 1 : fan_in; }

template <bool wide>
FUNCTION void forward_layer(Net net, const Block<wide> &s, int layer, Numbers<wide> x, int rows) {
    const int size = Tile<wide>::size;
    int fan_in = net.sizes[layer], fan_out = net.sizes[layer + 1], function = net.activations[layer];
    int step = row_step<wide>(fan_in), tiles = (rows + size - 1) / size;
    bool is_last = layer == net.n_layers - 1;
    Numbers<wide> w = s.w.from(net.places[layer]), b = s.w.from(net.bias_places[layer]);
    Numbers<wide> a = s.a.from(net.outputs_at[layer]);
    for (int item = thread<wide>(); item < tiles * fan_out; item += threads<wide>()) {
        int k = item % fan_out, first = item / fan_out * size, at[size];
        double total[size];
        for (int t = 0; t < size; t++) {
            at[t] = smaller(first + t, rows - 1) * fan_in;
            total[t] = b[k];
        }
        for (int j = 0; j < fan_in; j++) {
            double weight = w[k * step + j];
            for (int t = 0; t < size; t++) total[t] = total[t] + weight * x[at[t] + j];
        }
        for (int t = 0; t < size; t++) {
            int i = (first + t) * fan_out + k;
            if (first + t < rows && is_last) s.z[i] = total[t];
            if (first + t < rows && function != SOFTMAX) a[i] = activate(function, total[t]);
        }
    }
    meet<wide>();
    if (function == SOFTMAX) {
        softmax(s.z, a, rows, fan_out);
        meet<wide>();
    }
}

template <bool wide> FUNCTION void forward(Net net, const Block<wide> &s, int rows) {
    for (int layer = 0; layer < net.n_layers; layer++)
        forward_layer(net, s, layer, layer == 0 ? s.x : s.a.from(net.outputs_at[layer - 1]), rows);
}

template <bool wide> FUNCTION void deriv_loss(Net net, const Block<wide> &s, int rows, int n) {
    int last = net.n_layers - 1, width = net.sizes[last + 1], function = net.activations[last];
    Numbers<wide> a = s.a.from(net.outputs_at[last]), d = s.d.from(net.outputs_at[last]);
    double factor =
        (net.loss == MSE ? 2.0 : 1.0) / (double)(net.loss == CROSS_ENTROPY ? n : (long long)n * width);
    bool is_curved = net.loss == MSE && function != SOFTMAX;
    for (int i = thread<wide>(); i < rows * width; i += threads<wide>()) {
        double error = a[i] - s.y[i];
        d[i] = is_curved ? derive(function, a[i], error * factor) : error * factor;
    }
    meet<wide>();
    if (net.loss == MSE && function == SOFTMAX) {
        derive_softmax(a, d, rows, width);
        meet<wide>();
    }
}

template <bool wide> FUNCTION void backpropagate(Net net, const Block<wide> &s, int layer, int rows) {
    const int size = Tile<wide>::size;
    int fan_in = net.sizes[layer], fan_out = net.sizes[layer + 1], function = net.activations[layer - 1];
    int step = row_step<wide>(fan_in), tiles = (rows + size - 1) / size;
    Numbers<wide> w = s.w.from(net.places[layer]), d = s.d.from(net.outputs_at[layer]);
    Numbers<wide> a = s.a.from(net.outputs_at[layer - 1]), below = s.d.from(net.outputs_at[layer - 1]);
    for (int item = thread<wide>(); item < tiles * fan_in; item += threads<wide>()) {
        int j = item % fan_in, first = item / fan_in * size, at[size];
        double total[size];
        for (int t = 0; t < size; t++) {
            at[t] = smaller(first + t, rows - 1) * fan_out;
            total[t] = d[at[t]] * w[j];
        }
        for (int k = 1; k < fan_out; k++) {
            double weight = w[k * step + j];
            for (int t = 0; t < size; t++) total[t] = total[t] + d[at[t] + k] * weight;
        }
        for (int t = 0; t < size; t++) {
            int i = (first + t) * fan_in + j;
            if (first + t < rows) below[i] = derive(function, a[i], total[t]);
        }
    }
    meet<wide>();
}

// Change weight i, at `place` in the block's memory, by its gradient.
template <bool wide> FUNCTION void update(Net net, const Block<wide> &s, int i, int place, double g) {
    double w = s.w[place], rate = s.rate;
    if (net.has_decay) {
        double decay = s.options[3], shrink = rate * decay;
        if (net.optimizer == ADAMW)
            w = if_greater(decay, 0.0, w - shrink * w, w);
        else
            g = if_greater(decay, 0.0, g + decay * w, g);
    }
    if (net.optimizer == SGD) {
        w = w - rate * g;
    } else if (net.optimizer == MOMENTUM) {
        double velocity = s.options[0] * s.m[i] + g;
        s.m[i] = velocity;
        w = w - rate * velocity;
    } else {
        double beta1 = s.options[0], beta2 = s.options[1], epsilon = s.options[2];
        double rest1 = 1.0 - s.powers[0], rest2 = 1.0 - s.powers[1];
        double m = beta1 * s.m[i] + (1.0 - beta1) * g;
        double v = beta2 * s.v[i] + (1.0 - beta2) * (g * g);
        s.m[i] = m;
        s.v[i] = v;
        double m_hat = rest1 == 1.0 ? m : m / rest1;
        w = w - rate * m_hat / (sqrt(v / rest2) + epsilon);
    }
    s.w[place] = w;
}

// Compute a layer's gradients, and add them to those of earlier rows unless `is_first`. If `is_whole`, these are all
// the rows of a mini-batch, and the weights are changed at once.
template <bool wide>
FUNCTION void add_gradients(
    Net net, const Block<wide> &s, int layer, Numbers<wide> x, int rows, bool is_first, bool is_whole
) {
    const int size = Tile<wide>::size;
    int fan_in = net.sizes[layer], fan_out = net.sizes[layer + 1], tiles = (fan_out + size - 1) / size;
    int w_at = net.weights_at[layer], b_at = net.biases_at[layer], step = row_step<wide>(fan_in);
    int places = net.places[layer], bias_places = net.bias_places[layer];
    Numbers<wide> d = s.d.from(net.outputs_at[layer]);
    for (int k = thread<wide>(); k < fan_out; k += threads<wide>()) {
        double total = is_first ? 0.0 : s.grad[b_at + k];
        for (int r = 0; r < rows; r++) total = total + d[r * fan_out + k];
        if (is_whole)
            update(net, s, b_at + k, bias_places + k, total);
        else
            s.grad[b_at + k] = total;
    }
    for (int item = thread<wide>(); item < tiles * fan_in; item += threads<wide>()) {
        int j = item % fan_in, first = item / fan_in * size, at[size];
        double total[size];
        for (int t = 0; t < size; t++) {
            at[t] = smaller(first + t, fan_out - 1);
            total[t] = is_first ? 0.0 : s.grad[w_at + at[t] * fan_in + j];
        }
        for (int r = 0; r < rows; r++) {
            double input = x[r * fan_in + j];
            for (int t = 0; t < size; t++) total[t] = total[t] + d[r * fan_out + at[t]] * input;
        }
        for (int t = 0; t < size; t++) {
            int k = first + t, i = w_at + k * fan_in + j;
            if (k >= fan_out) continue;
            if (is_whole)
                update(net, s, i, places + k * step + j, total[t]);
            else
                s.grad[i] = total[t];
        }
    }
}

template <bool wide>
FUNCTION void backward(Net net, const Block<wide> &s, int rows, bool is_first, bool is_whole) {
    for (int layer = net.n_layers - 1; layer >= 0; layer--) {
        if (layer > 0) backpropagate(net, s, layer, rows);  // before the layer's weights are changed
        Numbers<wide> x = layer == 0 ? s.x : s.a.from(net.outputs_at[layer - 1]);
        add_gradients(net, s, layer, x, rows, is_first, is_whole);
    }
    meet<wide>();
}

// --- evaluation.py

// Copy rows of the samples into the block, from row `first` of all or of the run's order on.
template <bool wide>
FUNCTION void gather_rows(
    const Block<wide> &s, const Samples &data, long long run, const int *order, int first, int rows
) {
    long long own = data.shared ? 0 : run * data.n;
    for (int i = thread<wide>(); i < rows * data.fan_in; i += threads<wide>()) {
        int r = i / data.fan_in, row = order ? order[first + r] : first + r;
        s.x[i] = data.x[(own + row) * data.fan_in + i % data.fan_in];
    }
    for (int i = thread<wide>(); i < rows * data.width; i += threads<wide>()) {
        int r = i / data.width, row = order ? order[first + r] : first + r;
        s.y[i] = data.y[(own + row) * data.width + i % data.width];
    }
    meet<wide>();
}

FUNCTION double bce(double z, double y) {
    double positive = if_greater(0.0, z, 0.0, z);
    double tail = log1p_of(exp_of(if_greater(0.0, z, z, 0.0 - z)));
    return positive - y * z + tail;
}

template <bool wide> FUNCTION double cross_entropy(Numbers<wide> z, Numbers<wide> y, int width) {
    double top = largest(z, width), powers = 0.0, own = 0.0;
    for (int k = 0; k < width; k++) {
        powers = powers + exp_of(z[k] - top);
        own = own + y[k] * z[k];
    }
    return top + log_of(powers) - own;
}

// Add the first `count` numbers of `terms` to a sum, one after another.
template <bool wide> FUNCTION void add_to(double &sum, Numbers<wide> terms, int count) {
    meet<wide>();
    if (thread<wide>() == 0) {
        double total = sum;
        for (int i = 0; i < count; i++) total = total + terms[i];
        sum = total;
    }
    meet<wide>();
}

template <bool wide> FUNCTION void add_losses(Net net, const Block<wide> &s, int rows) {
    int last = net.n_layers - 1, width = net.sizes[last + 1];
    int count = net.loss == CROSS_ENTROPY ? rows : rows * width;
    Numbers<wide> a = s.a.from(net.outputs_at[last]), terms = s.d.from(net.outputs_at[last]);
    for (int i = thread<wide>(); i < count; i += threads<wide>()) {
        if (net.loss == MSE) {
            double error = s.y[i] - a[i];
            terms[i] = error * error;
        } else if (net.loss == BCE) {
            terms[i] = bce(s.z[i], s.y[i]);
        } else {
            terms[i] = cross_entropy(s.z.from(i * width), s.y.from(i * width), width);
        }
    }
    add_to(s.sums[0], terms, count);
}

template <bool wide> FUNCTION void count_correct(Net net, const Block<wide> &s, int rows) {
    int last = net.n_layers - 1, width = net.sizes[last + 1];
    Numbers<wide> a = s.a.from(net.outputs_at[last]), terms = s.d.from(net.outputs_at[last]);
    for (int r = thread<wide>(); r < rows; r += threads<wide>()) {
        double most = 0.5, most_true = 0.5, chosen = 0.0, label_of = 0.0, right = 1.0;
        for (int k = 0; k < width; k++) {
            double output = a[r * width + k], label = s.y[r * width + k];
            double size = if_greater(0.0, output, 0.0 - output, output);
            right = if_greater(INFINITE, size, right, 0.0);
            if (width == 1) {
                chosen = if_greater(0.5, output, 0.0, 1.0);
                label_of = if_greater(0.5, label, 0.0, 1.0);
            } else if (k == 0) {
                most = output;
                most_true = label;
            } else {
                chosen = if_greater(output, most, (double)k, chosen);
                most = if_greater(output, most, output, most);
                label_of = if_greater(label, most_true, (double)k, label_of);
                most_true = if_greater(label, most_true, label, most_true);
            }
        }
        double apart = (chosen - label_of) * (chosen - label_of);
        terms[r] = if_greater(apart, 0.0, 0.0, right);
    }
    add_to(s.sums[1], terms, rows);
}

template <bool wide>
FUNCTION void evaluate(Net net, const Block<wide> &s, const Samples &data, long long run, bool with_gradient) {
    if (thread<wide>() == 0) s.sums[0] = s.sums[1] = 0.0;
    for (int first = 0; first < data.n; first += net.rows) {
        int rows = smaller(net.rows, data.n - first);
        gather_rows(s, data, run, nullptr, first, rows);
        forward(net, s, rows);
        add_losses(net, s, rows);
        if (net.is_classification) count_correct(net, s, rows);
        if (with_gradient) {
            deriv_loss(net, s, rows, data.n);
            backward(net, s, rows, first == 0, false);
        }
    }
    if (thread<wide>() == 0) {
        long long terms = net.loss == CROSS_ENTROPY ? data.n : (long long)data.n * data.width;
        s.sums[0] = s.sums[0] / (double)terms;
        if (with_gradient) {
            double squares = 0.0;
            for (int i = 0; i < net.n_weights; i++) squares = squares + s.grad[i] * s.grad[i];
            s.sums[2] = sqrt(squares);
        }
    }
    meet<wide>();
}

// --- epochs.py

template <bool wide> FUNCTION void count_step(Net net, Block<wide> &s) {
    if (net.optimizer != ADAM && net.optimizer != ADAMW) return;
    s.powers[0] = s.powers[0] * s.options[0];
    s.powers[1] = s.powers[1] * s.options[1];
}

// Change all weights by their gradients.
template <bool wide> FUNCTION void update_all(Net net, const Block<wide> &s) {
    for (int layer = 0; layer < net.n_layers; layer++) {
        int fan_in = net.sizes[layer], fan_out = net.sizes[layer + 1], step = row_step<wide>(fan_in);
        int w_at = net.weights_at[layer], b_at = net.biases_at[layer];
        int places = net.places[layer], bias_places = net.bias_places[layer];
        for (int i = thread<wide>(); i < fan_in * fan_out; i += threads<wide>())
            update(net, s, w_at + i, places + i / fan_in * step + i % fan_in, s.grad[w_at + i]);
        for (int k = thread<wide>(); k < fan_out; k += threads<wide>())
            update(net, s, b_at + k, bias_places + k, s.grad[b_at + k]);
    }
    meet<wide>();
}

template <bool wide>
FUNCTION void train_epoch(Net net, Block<wide> &s, const Samples &data, long long run, const int *order) {
    for (int first = 0; first < data.n; first += net.batch_size) {
        int n = smaller(net.batch_size, data.n - first);
        bool is_whole = n <= net.rows;
        count_step(net, s);
        for (int start = 0; start < n; start += net.rows) {
            int rows = smaller(net.rows, n - start);
            gather_rows(s, data, run, order, first + start, rows);
            forward(net, s, rows);
            deriv_loss(net, s, rows, n);
            backward(net, s, rows, start == 0, is_whole);
        }
        if (!is_whole) update_all(net, s);
    }
}

FUNCTION void train_articles(const Block<false> &s, const Samples &data, int epochs) {
    double rate = s.rate;
    double w1 = s.w[0], w2 = s.w[1], w3 = s.w[2], w4 = s.w[3], w5 = s.w[4], w6 = s.w[5];
    double b1 = s.w[6], b2 = s.w[7], b3 = s.w[8];
    for (int epoch = 0; epoch < epochs; epoch++) {
        for (int i = 0; i < data.n; i++) {
            double x0 = data.x[2 * i], x1 = data.x[2 * i + 1];
            double h1 = sigmoid(b1 + w1 * x0 + w2 * x1);
            double h2 = sigmoid(b2 + w3 * x0 + w4 * x1);
            double o = sigmoid(b3 + w5 * h1 + w6 * h2);
            double d = (o - data.y[i]) * 2.0 * (o * (1.0 - o));
            double d1 = d * w5 * (h1 * (1.0 - h1));
            double d2 = d * w6 * (h2 * (1.0 - h2));
            w1 = w1 - rate * (0.0 + d1 * x0);
            w2 = w2 - rate * (0.0 + d1 * x1);
            w3 = w3 - rate * (0.0 + d2 * x0);
            w4 = w4 - rate * (0.0 + d2 * x1);
            w5 = w5 - rate * (0.0 + d * h1);
            w6 = w6 - rate * (0.0 + d * h2);
            b1 = b1 - rate * (0.0 + d1);
            b2 = b2 - rate * (0.0 + d2);
            b3 = b3 - rate * (0.0 + d);
        }
    }
    s.w[0] = w1;
    s.w[1] = w2;
    s.w[2] = w3;
    s.w[3] = w4;
    s.w[4] = w5;
    s.w[5] = w6;
    s.w[6] = b1;
    s.w[7] = b2;
    s.w[8] = b3;
}

// --- kernel.py

// Copy the weights from a run to the block, or back.
template <bool wide> FUNCTION void copy_weights(Net net, const Block<wide> &s, Column run, bool is_back) {
    for (int layer = 0; layer < net.n_layers; layer++) {
        int fan_in = net.sizes[layer], fan_out = net.sizes[layer + 1], step = row_step<wide>(fan_in);
        int w_at = net.weights_at[layer], b_at = net.biases_at[layer];
        Numbers<wide> w = s.w.from(net.places[layer]), b = s.w.from(net.bias_places[layer]);
        for (int i = thread<wide>(); i < fan_in * fan_out; i += threads<wide>()) {
            double &own = w[i / fan_in * step + i % fan_in], &there = run[w_at + i];
            (is_back ? there : own) = is_back ? own : there;
        }
        for (int k = thread<wide>(); k < fan_out; k += threads<wide>())
            (is_back ? run[b_at + k] : b[k]) = is_back ? b[k] : run[b_at + k];
    }
    meet<wide>();
}

template <bool wide> FUNCTION bool weights_are_finite(Net net, const Block<wide> &s) {
    bool is_other = false;
    for (int layer = 0; layer < net.n_layers; layer++) {
        int fan_in = net.sizes[layer], fan_out = net.sizes[layer + 1], step = row_step<wide>(fan_in);
        Numbers<wide> w = s.w.from(net.places[layer]), b = s.w.from(net.bias_places[layer]);
        for (int i = thread<wide>(); i < fan_in * fan_out; i += threads<wide>())
            is_other |= !is_finite(w[i / fan_in * step + i % fan_in]);
        for (int k = thread<wide>(); k < fan_out; k += threads<wide>()) is_other |= !is_finite(b[k]);
    }
    return !any<wide>(is_other);
}

// How a run stands. All threads that train it know, so that they go the same way.
struct Standing {
    long long diverged, stopped, best_epoch;
    double best_loss;
};

template <bool wide>
FUNCTION void record(
    Net net, const Block<wide> &s, long long run, int n, bool is_training, long long epoch, long long position,
    Standing &now
) {
    double loss = s.sums[0];
    if (thread<wide>() == 0) {
        double *records = net.records + (run * net.n_logged + position) * 5 + (is_training ? 0 : 3);
        records[0] = loss;
        records[1] = s.sums[1] / (double)n;
        if (is_training) records[2] = s.sums[2];
    }
    if (is_training) {
        if (!weights_are_finite(net, s) || !is_finite(loss)) now.diverged = epoch;
    } else if (net.patience[run] > 0 && now.diverged < 0) {
        if (loss < now.best_loss) {
            now.best_loss = loss;
            now.best_epoch = epoch;
            copy_weights(net, s, {net.best_weights + run * net.run_step, net.weight_step}, true);
        } else if (epoch - now.best_epoch >= net.patience[run]) {
            now.stopped = epoch;
        }
    }
    meet<wide>();  // before the next evaluation changes the sums
}

template <bool wide> FUNCTION void train_run(Net net, Block<wide> &s, long long run) {
    Samples data = {net.x, net.y, (int)net.n, (int)net.sizes[0], (int)net.sizes[net.n_layers], net.is_shared != 0};
    Samples validation = data;
    validation.x = net.x_val;
    validation.y = net.y_val;
    validation.n = (int)net.n_val;
    validation.shared = net.val_is_shared != 0;
    Column weights = {net.weights + run * net.run_step, net.weight_step};
    Standing now = {-1, -1, net.best_epoch[run], net.best_loss[run]};
    long long last = net.epochs[run], stop = last < net.until ? last : net.until;
    long long completed = net.epoch, logged = 0;
    s.m = {net.first_moment + run * net.run_step, net.weight_step};
    s.v = {net.second_moment + run * net.run_step, net.weight_step};
    s.rate = net.learning_rate[run];
    for (int i = 0; i < 4; i++) s.options[i] = net.options[4 * run + i];
    for (int i = 0; i < 2; i++) s.powers[i] = net.powers[2 * run + i];
    copy_weights(net, s, weights, false);
    while (true) {
        if (logged < net.n_logged && net.log_epochs[logged] == completed) {
            for (int part = 0; part < (validation.n > 0 ? 2 : 1); part++) {
                const Samples &samples = part == 0 ? data : validation;
                evaluate(net, s, samples, run, part == 0);
                record(net, s, run, samples.n, part == 0, completed, logged, now);
            }
            logged++;
        }
        if (stop == completed && completed == last && !weights_are_finite(net, s)) now.diverged = completed;
        if (stop == completed || now.diverged >= 0 || now.stopped >= 0) break;
        long long pause = stop;
        if (logged < net.n_logged && net.log_epochs[logged] < pause) pause = net.log_epochs[logged];
        if constexpr (!wide) {
            if (net.is_articles && data.shared && !net.order) {
                train_articles(s, data, (int)(pause - completed));
                completed = pause;
            }
        }
        for (; completed < pause; completed++) {
            const int *order = net.order ? net.order + run * net.order_step + (completed - net.epoch) * net.n : nullptr;
            train_epoch(net, s, data, run, order);
        }
    }
    copy_weights(net, s, weights, true);
    if (thread<wide>() == 0) {
        for (int i = 0; i < 2; i++) net.powers[2 * run + i] = s.powers[i];
        net.diverged[run] = now.diverged;
        net.stopped[run] = now.stopped;
        net.best_epoch[run] = now.best_epoch;
        net.best_loss[run] = now.best_loss;
    }
    meet<wide>();  // before the block's next run
}

template <bool wide> FUNCTION void view_block(Net net, Block<wide> &s, Numbers<wide> memory) {
    s.w = memory;
    s.a = memory.from(net.parts[1]);
    s.d = memory.from(net.parts[2]);
    s.z = memory.from(net.parts[3]);
    s.x = memory.from(net.parts[4]);
    s.y = memory.from(net.parts[5]);
    s.sums = memory.from(net.parts[6]);
}

// Each thread trains a run by itself, and a block's memory is shared memory.
extern "C" __global__ void train_narrow(const Arguments net) {
    extern __shared__ double memory[];
    Block<false> s;
    view_block(net, s, {memory + threadIdx.x});
    s.grad = Numbers<false>{memory + threadIdx.x}.from(net.parts[7]);
    for (long long i = this_thread(); i < net.n_active; i += all_threads()) train_run(net, s, net.active[i]);
}

// The threads of a block train a run together. Only the gradients of large mini-batches are in global memory. Two
// blocks of the most threads share a processor: so a thread has 64 registers, which is faster than more.
extern "C" __global__ void __launch_bounds__(512, 2) train_wide(const Arguments net) {
    extern __shared__ double memory[];
    Block<true> s;
    view_block(net, s, {memory});
    s.grad = {net.scratch + blockIdx.x * net.scratch_step};
    for (long long i = blockIdx.x; i < net.n_active; i += gridDim.x) train_run(net, s, net.active[i]);
}

// The same for networks that are too large for shared memory: all of a block's memory is in global memory.
extern "C" __global__ void train_large(const Arguments net) {
    Block<true> s;
    view_block(net, s, {net.scratch + blockIdx.x * net.scratch_step});
    s.grad = s.w.from(net.parts[7]);
    for (long long i = blockIdx.x; i < net.n_active; i += gridDim.x) train_run(net, s, net.active[i]);
}

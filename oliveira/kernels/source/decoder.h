// What one forward pass of a GPT needs to know. The same structures stand in oliveira/kernels/decoder.py.
#pragma once
#include "types.h"

struct Norm {
    const float *gain, *shift; // gain null: there is none; shift null: RMSNorm
};

struct Layer {
    Norm attention_norm, feed_forward_norm;
    Norm query_norm, key_norm;                         // of each head, before it turns
    Norm attention_post_norm, feed_forward_post_norm; // of what is added to x
    Matrix qkv, output, up, down; // up: gate and up in turn, panel by panel, if gated
    const float *cosine, *sine;   // (max_len, turned), or null: this layer turns nothing
    int32_t window, unused;       // a position attends to so many; 0: all
};

struct Decoder {
    int32_t n_layers, d_model, n_heads, n_kv_heads, d_head, d_ff, vocab_size, max_len;
    int32_t gated, activation, threads, half; // half: keys and values as fp16
    float norm_eps;
    int32_t int8; // rows are rounded to 8 bits before a product with quantised weights
    int32_t turned, parallel; // of a head's width; attention and feed-forward net read the same x
    float embedding_scale, attention_scale, attention_cap, logit_cap; // 0: 1 / sqrt(d_head), no cap
    const Layer *layers;
    Norm norm;
    Matrix head;
    const float *embedding;          // (vocab_size, d_model), or null: the rows of `head`
    const float *positions;          // (max_len, d_model) or null
    char *pool;                     // blocks of keys and values: (n_blocks, n_layers, n_kv_heads, 2, 16 d_head)
    int64_t n_blocks;
};

enum Part { QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN, PARTS }; // of a layer: what an adapter may change

struct Batch { // runs of new tokens, each of another stream
    int32_t n_runs, unused;
    const int32_t *length;   // (n_runs) new tokens
    const int32_t *position; // (n_runs) of the first of them
    const int32_t *slot;     // (n_runs) its place in the run's blocks: the position less what was dropped
    const int32_t *wanted;   // (n_runs) logits of the last … tokens
    const int64_t *table;    // (n_runs) where the run's block numbers begin in `blocks`
    const int32_t *blocks;
    const int64_t *tokens;   // run after run
    float *logits;           // (sum of wanted, vocab_size)
    const LowRank *const *adapter; // null, or (n_runs): null, or (n_layers, PARTS)
    float *states;           // null, or (sum of wanted, d_model): the normalised states instead of logits
};

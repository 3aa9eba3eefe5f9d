// Package blas multiplies matrices with a BLAS that is found at run time, so that
// genesis-moe neither links one nor ships without one.
//
// [Default] looks in this order and keeps the first library that works:
//
//  1. the environment variable GENESIS_MOE_BLAS: the path of a shared library, a
//     name for the dynamic loader, or "gonum" for the pure-Go fallback. If it is
//     set and does not work, that is an error and nothing else is tried;
//  2. the MKL inside torch, if the process has loaded torch: no other needs to
//     be loaded, and RATIONALE.md says what is known of its speed;
//  3. a library that lies beside ours: in the directory of the shared object, or of
//     the program, that this package is part of (see [BundledDir]);
//  4. OpenBLAS, MKL or BLIS of the system, by the loader's usual names;
//  5. gonum, which is pure Go: it always works and is many times slower.
//
// A library is kept only if it gives the right numbers for a few small products, so
// that a wrong calling convention is an error and not a wrong model.
//
// # Threads
//
// Every call runs on the calling thread alone; parallelism is the engine's. Where a
// library keeps its thread count per thread (OpenBLAS built on OpenMP, an MKL that
// the host uses too), it is set before a call and put back after it. Otherwise the
// count belongs to the loaded library and is set to one for the process: where the
// host has loaded the very same file (a system numpy, say), the host's products are
// then single-threaded too. A bundled library is our own copy and has no such effect.
package blas

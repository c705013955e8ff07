// SPDX-License-Identifier: Apache-2.0
// The part of LibTorch that this project uses: tensors, their functions, derivatives, seeds and devices. It is the
// precompiled header of every torch unit (cmake/HydraTargets.cmake); all of torch/torch.h, with its layers, optimisers
// and data loaders, would cost each of them ten seconds more.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/generated/variable_factories.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <torch/version.h>

// Parallel loops of our own are at::parallel_for, a template that is compiled here: without OpenMP it calls its
// function once, on the calling thread, and says nothing.
#ifndef INTRA_OP_PARALLEL
#error "compile with OpenMP (-fopenmp): without it LibTorch's parallel_for runs on one thread"
#endif

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>

#include "distributed/group.hpp"

/// What every backend refuses before it sends anything: c10::ValueError with `call`, which names
/// the collective and may name number, group and rank.
namespace tailor::distributed {

std::int64_t sum(std::span<const std::int64_t> numbers);

void check_has_rows(const std::string& call, const at::Tensor& tensor);   // dim 0 is there
void check_peer(const std::string& call, const Group& group, int peer);   // a rank of the group
void check_other(const std::string& call, const Group& group, int peer);  // and not this one
void check_reducible(const std::string& call, const at::Tensor& tensor);
void check_color(const std::string& call, int color);

/// `whole` has `rows` rows, and else the shape and dtype of `part`.
void check_rows(const std::string& call, const at::Tensor& whole, const at::Tensor& part,
                std::int64_t rows);
/// A split for every rank, none negative, `rows` in all.
void check_splits(const std::string& call, const Group& group, const char* what,
                  std::span<const std::int64_t> splits, std::int64_t rows);

/// Rows of a part of `rows` rows that every rank gets one of.
std::int64_t rows_a_rank(const std::string& call, const Group& group, std::int64_t rows);

}  // namespace tailor::distributed

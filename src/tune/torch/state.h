#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "tune/torch/optimizer.h"
#include "tune/torch/restriction.h"
#include "tune/torch/validation.h"

namespace tessera::training {

using Restrictions = std::vector<std::unique_ptr<Restriction>>;

// What a training is taken up from: the trained parameters, their moments and what restrictions
// remember, behind so many steps. A safetensors file with the tensors "value.NAME", "first.NAME",
// "second.NAME", "restriction.NUMBER.NAME" and "validation.NAME", and the steps in its metadata.

// Writes the file whole or leaves it as it was.
// validation: null where nothing validates.
Status write_state(const std::string& path, const AdamW& optimizer,
                   const Restrictions& restrictions, const Validation* validation);
// Gives all of it back to a training that has just begun. kInvalidInput where the file is not of
// this training, or not whole.
Status read_state(const std::string& path, AdamW& optimizer, Restrictions& restrictions,
                  Validation* validation);

}  // namespace tessera::training

#pragma once

#include "tessera/status.h"

// Early returns for functions that return Status or Result<T>.
#define TESSERA_RETURN_IF_ERROR(expression)                                      \
  do {                                                                           \
    if (::tessera::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define TESSERA_CONCAT_INNER(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_INNER(a, b)

#define TESSERA_ASSIGN_OR_RETURN(target, expression) \
  TESSERA_ASSIGN_OR_RETURN_INNER(TESSERA_CONCAT(result_, __LINE__), target, expression)
#define TESSERA_ASSIGN_OR_RETURN_INNER(result, target, expression) \
  auto result = (expression);                                      \
  if (!result.ok()) return result.status();                        \
  target = std::move(result).value()

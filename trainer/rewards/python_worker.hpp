#pragma once

namespace tailor::trainer {

/// The text of python_worker.py, which is part of the program, so that it works wherever it is
/// installed.
extern const char* const kPythonWorker;

}  // namespace tailor::trainer

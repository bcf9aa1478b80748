#include "bindings/dtypes.hpp"

#include "bindings/arguments.hpp"

namespace fastbn::bindings {
namespace {

// NumPy's type numbers, of its ndarraytypes.h: the same in every version.
constexpr int numpy_bool = 0;
constexpr int numpy_int8 = 1;
constexpr int numpy_uint8 = 2;
constexpr int numpy_int16 = 3;
constexpr int numpy_uint16 = 4;
constexpr int numpy_int32 = 5;
constexpr int numpy_float32 = 11;
constexpr int numpy_float64 = 12;
constexpr int numpy_float16 = 23;
constexpr int first_user_type = 256;

constexpr char native_order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';

bool is_bfloat16(const py::dtype& dtype) {
    static int known = -1;  // guarded by the interpreter's lock
    if (dtype.num() == known) return true;
    if (dtype.num() < first_user_type || dtype.itemsize() != 2) return false;
    if (name_of(dtype) != "bfloat16") return false;
    known = dtype.num();
    return true;
}

}  // namespace

std::string name_of(const py::dtype& dtype) { return py::cast<std::string>(py::str(dtype)); }

std::optional<DType> engine_dtype(const py::dtype& dtype) {
    const char order = dtype.byteorder();  // the machine's own may be spelled out
    if (order != '=' && order != '|' && order != native_order) return std::nullopt;
    switch (dtype.num()) {
        case numpy_bool:
            return DType::boolean;
        case numpy_int8:
            return DType::int8;
        case numpy_uint8:
            return DType::uint8;
        case numpy_int16:
            return DType::int16;
        case numpy_uint16:
            return DType::uint16;
        case numpy_int32:
            return DType::int32;
        case numpy_float16:
            return DType::float16;
        case numpy_float32:
            return DType::float32;
        case numpy_float64:
            return DType::float64;
        default:
            if (is_bfloat16(dtype)) return DType::bfloat16;
            return std::nullopt;
    }
}

std::optional<py::dtype> result_dtype_argument(const py::object& value) {
    if (value.is_none()) return std::nullopt;
    constexpr const char* rule =
        "be float32, float64, float16 or bfloat16 (once ml_dtypes is imported)";
    py::object made;
    try {
        made = py::module_::import("numpy").attr("dtype")(value);
    } catch (const py::error_already_set& error) {
        if (!error.matches(PyExc_Exception)) throw;
        wrong_type("dtype", rule, shown(value));
    }
    auto dtype = py::reinterpret_borrow<py::dtype>(made);
    const std::optional<DType> known = engine_dtype(dtype);
    if (!known || !is_float(*known)) wrong_type("dtype", rule, shown(value));
    return dtype;
}

}  // namespace fastbn::bindings

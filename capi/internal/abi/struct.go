package abi

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// maxStructSize bounds struct_size: far above any version of any struct, and low
// enough that a garbage size does not send the check below over the caller's memory.
const maxStructSize = 4096

// check returns the struct at p as an S after checking its address and its
// struct_size, the first field of every struct of the ABI.
//
// Fields are only ever appended. A size below the one of version 1 cannot be right.
// A larger one comes from a caller compiled against a newer header: it is accepted
// as long as the bytes that this library does not know are zero, which every
// appended field must take to mean "as before".
//
// S has the size of version 1; grown is check for a struct that has grown since.
func check[S any](argument string, p unsafe.Pointer) (*S, error) {
	return checkAt[S](argument, &p)
}

// checkAt is check for a pointer that lies in memory, such as a field.
func checkAt[S any, P any](argument string, field *P) (*S, error) {
	s, err := pointer[S](argument, field)
	if err != nil {
		return nil, err
	}
	if err := checkSize(argument, unsafe.Pointer(s), unsafe.Sizeof(*s), unsafe.Sizeof(*s)); err != nil {
		return nil, err
	}
	return s, nil
}

// room is where the struct of a caller with an older header is completed with zeros. To
// Go it holds no pointers: what a caller takes for one may be any number.
type room [32]uint64

// grown is check for a struct that fields were appended to: first is its size in version 1.
func grown[S any](argument string, p unsafe.Pointer, first uintptr, r *room) (*S, error) {
	s, err := pointer[S](argument, &p)
	if err != nil {
		return nil, err
	}
	known := unsafe.Sizeof(*s)
	if err := checkSize(argument, unsafe.Pointer(s), first, known); err != nil {
		return nil, err
	}
	size := uintptr(*(*uint32)(p))
	if size >= known {
		return s, nil
	}
	*r = room{}
	whole := unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))[:known]
	copy(whole, unsafe.Slice((*byte)(p), size))
	return (*S)(unsafe.Pointer(r)), nil
}

// checkSize checks the struct_size at p: at least first, and zeros past the bytes known.
func checkSize(argument string, p unsafe.Pointer, first, known uintptr) error {
	if p == nil {
		return core.Invalidf(argument, "is NULL")
	}
	size := uintptr(*(*uint32)(p))
	if size < first || size > maxStructSize {
		return core.Invalidf(argument, "struct_size %d, want %d: initialise it with its _INIT macro", size, known)
	}
	if size <= known {
		return nil
	}
	for _, b := range unsafe.Slice((*byte)(unsafe.Add(p, known)), size-known) {
		if b != 0 {
			return core.Errorf(core.Unsupported,
				"%s: struct_size %d is of a newer version than this library's %d, and a field that it does not know is set",
				argument, size, known)
		}
	}
	return nil
}

// pointer loads the pointer to an S that lies at field, after checking that it is
// NULL or looks like the address of one. The field is read as a number first: the
// Go runtime aborts the process when a pointer on its stack is not an address.
func pointer[S any, P any](argument string, field *P) (*S, error) {
	return pointerIn[S](argument, "pointer", field)
}

// pointerIn is pointer for the named member of an argument.
func pointerIn[S any, P any](argument, member string, field *P) (*S, error) {
	var s S
	address := *(*uintptr)(unsafe.Pointer(field))
	if address != 0 && (address < lowestAddress || address%unsafe.Alignof(s) != 0) {
		return nil, core.Invalidf(argument, "%s %#x is not an address aligned to %d bytes", member, address, unsafe.Alignof(s))
	}
	return *(**S)(unsafe.Pointer(field)), nil
}

// lowestAddress bounds the page around NULL, where no system maps anything.
const lowestAddress = 4096

// reserved refuses a reserved field that is not zero, so that it can get a meaning.
func reserved[I ~uint32](argument string, value I) error {
	if value != 0 {
		return core.Invalidf(argument, "reserved is %d, want 0", uint32(value))
	}
	return nil
}

// boolean reads a field that C calls int32_t and means 0 or 1.
func boolean[I ~int32](argument string, value I) (bool, error) {
	if value != 0 && value != 1 {
		return false, core.Invalidf(argument, "%d, want 0 or 1", int32(value))
	}
	return value == 1, nil
}

// stream reads a CUstream as the number that it is.
func stream(field *unsafe.Pointer) core.Stream { return *(*core.Stream)(unsafe.Pointer(field)) }

// workspace reads the fields that lend memory. The address is the device's, so a number.
func workspace[I ~uint64](field *unsafe.Pointer, size I) core.Workspace {
	return core.Workspace{Base: *(*uintptr)(unsafe.Pointer(field)), Size: uint64(size)}
}

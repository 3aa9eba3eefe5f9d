//! The part of DLPack that the library borrows: see `dlpack.h` beside `genesis_moe.h`.

use core::ffi::c_void;

/// Host memory.
pub const kDLCPU: i32 = 1;
/// Memory of an NVIDIA GPU.
pub const kDLCUDA: i32 = 2;
/// Pinned host memory.
pub const kDLCUDAHost: i32 = 3;

/// Signed integers.
pub const kDLInt: u8 = 0;
/// Unsigned integers.
pub const kDLUInt: u8 = 1;
/// IEEE floating point.
pub const kDLFloat: u8 = 2;
/// bfloat16.
pub const kDLBfloat: u8 = 4;
/// float8_e4m3fn: no infinity, 448 is the largest.
pub const kDLFloat8_e4m3fn: u8 = 10;

/// Where memory lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDevice {
    /// A `kDL` constant such as [`kDLCPU`].
    pub device_type: i32,
    /// Which of these devices; 0 on the CPU.
    pub device_id: i32,
}

/// What an element is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDataType {
    /// A `kDL` constant such as [`kDLFloat`].
    pub code: u8,
    /// Its width.
    pub bits: u8,
    /// Always 1 here.
    pub lanes: u16,
}

/// A borrowed strided view. Element `(i0, i1, ...)` is at
/// `data + byte_offset + (i0*strides[0] + i1*strides[1] + ...) * bits/8`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLTensor {
    /// The first element, before `byte_offset`.
    pub data: *mut c_void,
    /// Where `data` lives.
    pub device: DLDevice,
    /// The number of dimensions.
    pub ndim: i32,
    /// What an element is.
    pub dtype: DLDataType,
    /// `ndim` sizes.
    pub shape: *mut i64,
    /// `ndim` strides, in elements; NULL means compact row-major.
    pub strides: *mut i64,
    /// Added to `data`.
    pub byte_offset: u64,
}

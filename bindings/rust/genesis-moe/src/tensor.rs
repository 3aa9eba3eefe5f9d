use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;

use genesis_moe_sys as sys;

use crate::error::{Result, invalid};

/// A Rust type that tensors hold: `f32`, `f64`, `i32`, `i64`, [`F8E4M3`] and, with the feature
/// `half`, `half::bf16`.
///
/// # Safety
/// [`Element::DTYPE`] describes the type's memory.
pub unsafe trait Element: Copy {
    /// The element type in DLPack's terms.
    const DTYPE: sys::DLDataType;
}

macro_rules! elements {
    ($($(#[$meta:meta])* $kind:ty = $code:ident $bits:literal;)*) => {
        $(
            $(#[$meta])*
            // SAFETY: code and width are those of the type.
            unsafe impl Element for $kind {
                const DTYPE: sys::DLDataType = sys::DLDataType { code: sys::$code, bits: $bits, lanes: 1 };
            }
        )*
    };
}

elements! {
    f32 = kDLFloat 32;
    f64 = kDLFloat 64;
    i32 = kDLInt 32;
    i64 = kDLInt 64;
    F8E4M3 = kDLFloat8_e4m3fn 8;
    #[cfg(feature = "half")]
    half::bf16 = kDLBfloat 16;
}

/// A float8_e4m3fn number, as its bits: a sign, 4 of exponent with bias 7, 3 of mantissa. It has no
/// infinity; 448 is the largest. Weights of experts may be of it:
/// [`Experts::quantize`](crate::Experts::quantize) makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F8E4M3(pub u8);

impl From<F8E4M3> for f32 {
    fn from(F8E4M3(bits): F8E4M3) -> f32 {
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
        let magnitude = match (exponent, bits & 0x7f) {
            (_, 0x7f) => f32::NAN,
            (0, _) => mantissa / 512.0,
            _ => (8.0 + mantissa) * 2.0_f32.powi(exponent - 10),
        };
        if bits & 0x80 == 0 { magnitude } else { -magnitude }
    }
}

/// A borrowed tensor that is read. It is a pointer with a shape and strides; nothing is copied.
///
/// ```
/// use genesis_moe::TensorView;
///
/// let data = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let rows = TensorView::new(&data, &[2, 3])?;
/// let columns = TensorView::strided(&data, &[3, 2], &[1, 3])?;        // its transpose
/// let bias = TensorView::from(&data[..]);                             // one dimension
/// assert_eq!(columns.shape(), [3, 2]);
///
/// let error = TensorView::new(&data, &[2, 4]).unwrap_err();
/// assert_eq!(error.to_string(), "data: 6 elements, want 8 for shape [2, 4]");
/// # Ok::<(), genesis_moe::Error>(())
/// ```
pub struct TensorView<'a> {
    view: View,
    borrowed: PhantomData<&'a ()>,
}

/// A borrowed tensor that is written.
pub struct TensorViewMut<'a> {
    view: View,
    borrowed: PhantomData<&'a mut ()>,
}

struct View {
    tensor: sys::DLTensor,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

// SAFETY: a view gives what the slice or array that it borrows gives: a TensorView reads, so
// it may be shared; a TensorViewMut is the only one that writes.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl<'a> TensorView<'a> {
    /// A slice as a row-major tensor.
    ///
    /// # Errors
    /// When the slice does not have as many elements as the shape.
    pub fn new<T: Element>(data: &'a [T], shape: &[usize]) -> Result<Self> {
        let view = View::compact::<T>(data.as_ptr().cast_mut(), data.len(), shape)?;
        Ok(Self { view, borrowed: PhantomData })
    }

    /// A slice as a tensor with strides, counted in elements.
    ///
    /// # Errors
    /// When an element would lie outside the slice, or strides and shape differ in length.
    pub fn strided<T: Element>(data: &'a [T], shape: &[usize], strides: &[usize]) -> Result<Self> {
        let view = View::strided::<T>(data.as_ptr().cast_mut(), data.len(), shape, strides)?;
        Ok(Self { view, borrowed: PhantomData })
    }

    /// A tensor of another framework, on any device.
    ///
    /// # Safety
    /// Its memory, shape and strides are valid for `'a`, and nothing writes to them meanwhile.
    pub unsafe fn from_dlpack(tensor: &'a sys::DLTensor) -> Self {
        // SAFETY: by the caller's word.
        let view = unsafe { View::from_dlpack(tensor) };
        Self { view, borrowed: PhantomData }
    }

    /// The sizes.
    pub fn shape(&self) -> &[i64] {
        &self.view.shape
    }

    pub(crate) fn as_raw(&mut self) -> *const sys::DLTensor {
        self.view.as_raw()
    }
}

impl<'a> TensorViewMut<'a> {
    /// A slice as a row-major tensor.
    ///
    /// # Errors
    /// When the slice does not have as many elements as the shape.
    pub fn new<T: Element>(data: &'a mut [T], shape: &[usize]) -> Result<Self> {
        let view = View::compact::<T>(data.as_mut_ptr(), data.len(), shape)?;
        Ok(Self { view, borrowed: PhantomData })
    }

    /// A slice as a tensor with strides, counted in elements. The library refuses strides with
    /// which two elements share memory.
    ///
    /// # Errors
    /// When an element would lie outside the slice, or strides and shape differ in length.
    pub fn strided<T: Element>(data: &'a mut [T], shape: &[usize], strides: &[usize]) -> Result<Self> {
        let view = View::strided::<T>(data.as_mut_ptr(), data.len(), shape, strides)?;
        Ok(Self { view, borrowed: PhantomData })
    }

    /// A tensor of another framework, on any device.
    ///
    /// # Safety
    /// Its memory, shape and strides are valid for `'a`, and nothing else uses them meanwhile.
    pub unsafe fn from_dlpack(tensor: &'a sys::DLTensor) -> Self {
        // SAFETY: by the caller's word.
        let view = unsafe { View::from_dlpack(tensor) };
        Self { view, borrowed: PhantomData }
    }

    /// The sizes.
    pub fn shape(&self) -> &[i64] {
        &self.view.shape
    }

    pub(crate) fn as_raw(&mut self) -> *const sys::DLTensor {
        self.view.as_raw()
    }
}

impl<'a, T: Element> From<&'a [T]> for TensorView<'a> {
    /// One dimension.
    fn from(data: &'a [T]) -> Self {
        Self { view: View::over::<T>(data.as_ptr().cast_mut(), vec![length(data)], vec![1]), borrowed: PhantomData }
    }
}

impl<'a, T: Element> From<&'a mut [T]> for TensorViewMut<'a> {
    /// One dimension.
    fn from(data: &'a mut [T]) -> Self {
        let shape = vec![length(data)];
        Self { view: View::over::<T>(data.as_mut_ptr(), shape, vec![1]), borrowed: PhantomData }
    }
}

#[cfg(feature = "ndarray")]
impl<'a, T, S, D> From<&'a ndarray::ArrayBase<S, D>> for TensorView<'a>
where
    T: Element,
    S: ndarray::Data<Elem = T>,
    D: ndarray::Dimension,
{
    /// An array of any layout, in place.
    fn from(array: &'a ndarray::ArrayBase<S, D>) -> Self {
        let (shape, strides) = dimensions(array.shape(), array.strides());
        Self { view: View::over::<T>(array.as_ptr().cast_mut(), shape, strides), borrowed: PhantomData }
    }
}

#[cfg(feature = "ndarray")]
impl<'a, T, S, D> From<&'a mut ndarray::ArrayBase<S, D>> for TensorViewMut<'a>
where
    T: Element,
    S: ndarray::DataMut<Elem = T>,
    D: ndarray::Dimension,
{
    /// An array of any layout, in place.
    fn from(array: &'a mut ndarray::ArrayBase<S, D>) -> Self {
        let (shape, strides) = dimensions(array.shape(), array.strides());
        Self { view: View::over::<T>(array.as_mut_ptr(), shape, strides), borrowed: PhantomData }
    }
}

#[cfg(feature = "ndarray")]
fn dimensions(shape: &[usize], strides: &[isize]) -> (Vec<i64>, Vec<i64>) {
    (shape.iter().map(|&size| size as i64).collect(), strides.iter().map(|&stride| stride as i64).collect())
}

impl View {
    fn compact<T: Element>(data: *mut T, length: usize, shape: &[usize]) -> Result<Self> {
        let mut strides = vec![1; shape.len()];
        let mut elements = Some(1_usize);
        for (stride, &size) in strides.iter_mut().zip(shape).rev() {
            *stride = elements.unwrap_or(0);
            elements = elements.and_then(|elements| elements.checked_mul(size));
        }
        if elements != Some(length) {
            let wanted = elements.map_or("more than memory holds".to_owned(), |elements| elements.to_string());
            return Err(invalid!("data: {length} elements, want {wanted} for shape {shape:?}"));
        }
        Self::strided(data, length, shape, &strides)
    }

    fn strided<T: Element>(data: *mut T, length: usize, shape: &[usize], strides: &[usize]) -> Result<Self> {
        if shape.len() != strides.len() {
            return Err(invalid!("strides: {strides:?} for shape {shape:?}, want one for each dimension"));
        }
        // The offset of the last element; None: beyond all memory.
        let last = shape.iter().zip(strides).try_fold(0_usize, |offset, (&size, &stride)| {
            stride.checked_mul(size.saturating_sub(1)).and_then(|reach| offset.checked_add(reach))
        });
        if !shape.contains(&0) && last.is_none_or(|last| last >= length) {
            return Err(invalid!("data: {length} elements, too few for shape {shape:?} with strides {strides:?}"));
        }
        let signed = |sizes: &[usize]| sizes.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        Ok(Self::over(data, signed(shape), signed(strides)))
    }

    fn over<T: Element>(data: *mut T, shape: Vec<i64>, strides: Vec<i64>) -> Self {
        let device = sys::DLDevice { device_type: sys::kDLCPU, device_id: 0 };
        let tensor = sys::DLTensor {
            data: data.cast::<c_void>(),
            device,
            ndim: i32::try_from(shape.len()).unwrap_or(i32::MAX),
            dtype: T::DTYPE,
            shape: std::ptr::null_mut(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        };
        Self { tensor, shape, strides }
    }

    /// # Safety
    /// Shape and strides point to as many numbers as there are dimensions.
    unsafe fn from_dlpack(tensor: &sys::DLTensor) -> Self {
        let rank = usize::try_from(tensor.ndim).unwrap_or(0);
        let numbers = |pointer: *mut i64| {
            if pointer.is_null() || rank == 0 {
                return Vec::new();
            }
            // SAFETY: by the caller's word.
            unsafe { std::slice::from_raw_parts(pointer, rank) }.to_vec()
        };
        Self { tensor: *tensor, shape: numbers(tensor.shape), strides: numbers(tensor.strides) }
    }

    /// The view in C; valid until this one moves.
    fn as_raw(&mut self) -> *const sys::DLTensor {
        let pointer =
            |numbers: &mut Vec<i64>| if numbers.is_empty() { std::ptr::null_mut() } else { numbers.as_mut_ptr() };
        self.tensor.shape = pointer(&mut self.shape);
        self.tensor.strides = pointer(&mut self.strides);
        &raw const self.tensor
    }
}

fn length<T>(data: &[T]) -> i64 {
    i64::try_from(data.len()).unwrap_or(i64::MAX)
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.describe("TensorView", formatter)
    }
}

impl fmt::Debug for TensorViewMut<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.describe("TensorViewMut", formatter)
    }
}

impl View {
    fn describe(&self, name: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = formatter.debug_struct(name);
        text.field("dtype", &self.tensor.dtype).field("shape", &self.shape).field("strides", &self.strides).finish()
    }
}

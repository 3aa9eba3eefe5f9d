/// Declares the arguments of an operation: a builder with a method for each tensor, and one
/// for each number, over the C struct. What is missing the library refuses by name.
macro_rules! arguments {
    (
        $(#[$meta:meta])*
        $name:ident for $raw:ident $(with $options:ident)?
        tensors { $($(#[$tensor_meta:meta])* $tensor:ident: $view:ident,)* }
        $(numbers { $($(#[$number_meta:meta])* $number:ident: $kind:ty,)* })?
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        #[must_use]
        pub struct $name<'a> {
            raw: sys::$raw,
            $($tensor: Option<$view<'a>>,)*
        }

        impl Default for $name<'_> {
            fn default() -> Self {
                Self { raw: sys::$raw::INIT, $($tensor: None,)* }
            }
        }

        impl<'a> $name<'a> {
            /// No tensor, and the library's defaults for the rest.
            pub fn new() -> Self {
                Self::default()
            }

            $(
                $(#[$tensor_meta])*
                pub fn $tensor(mut self, $tensor: impl Into<$view<'a>>) -> Self {
                    self.$tensor = Some($tensor.into());
                    self
                }
            )*

            $($(
                $(#[$number_meta])*
                pub fn $number(mut self, $number: $kind) -> Self {
                    self.raw.$number = $number;
                    self
                }
            )*)?

            /// The CUstream of a call on an NVIDIA GPU.
            ///
            /// # Safety
            /// The stream is alive, and the tensors stay until the work on it is done.
            pub unsafe fn stream(mut self, stream: *mut c_void) -> Self {
                self.raw.stream = stream;
                self
            }

            /// The scratch memory of a call on an NVIDIA GPU: as many bytes as the operation's
            /// `workspace_size` says, aligned to 256.
            ///
            /// # Safety
            /// The memory is on the device, and nothing else uses it until the work is done.
            pub unsafe fn workspace(mut self, address: *mut c_void, bytes: u64) -> Self {
                self.raw.workspace = address;
                self.raw.workspace_size = bytes;
                self
            }

            /// The arguments in C, valid until `self` changes or moves.
            pub(crate) fn fill(&mut self $(, options: &sys::$options)?) -> *const sys::$raw {
                $(self.raw.options = std::ptr::from_ref::<sys::$options>(options);)?
                $(
                    if let Some(view) = &mut self.$tensor {
                        self.raw.$tensor = view.as_raw();
                    }
                )*
                &raw const self.raw
            }
        }
    };
}
pub(crate) use arguments;

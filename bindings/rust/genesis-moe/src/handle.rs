/// Declares the owner of a C handle: it is destroyed when the last clone goes.
macro_rules! handle {
    ($name:ident for $raw:ident, $destroy:ident) => {
        #[derive(Clone)]
        struct $name(std::sync::Arc<Owned>);

        struct Owned(std::ptr::NonNull<sys::$raw>);

        // SAFETY: the header lets any number of threads use a handle at once. Destroying it is
        // exclusive, as drop is.
        unsafe impl Send for Owned {}
        // SAFETY: as above.
        unsafe impl Sync for Owned {}

        impl Drop for Owned {
            fn drop(&mut self) {
                // SAFETY: nobody has this handle any more. In a forked child this fails, as it should.
                unsafe { sys::$destroy(self.0.as_ptr()) };
            }
        }

        impl $name {
            /// Takes a handle from a call that has succeeded.
            fn own(raw: *mut sys::$raw) -> Self {
                let raw = std::ptr::NonNull::new(raw).expect("a handle that was made is not NULL");
                Self(std::sync::Arc::new(Owned(raw)))
            }

            fn raw(&self) -> *mut sys::$raw {
                self.0.0.as_ptr()
            }
        }
    };
}
pub(crate) use handle;

use std::ffi::c_void;

use genesis_moe_sys as sys;

use crate::arguments::arguments;
use crate::error::{Result, check};
use crate::{Engine, TensorView, TensorViewMut};

arguments! {
    /// From the clans that a router chose to slots. `hidden_states`, `clan_index`, `root` and
    /// `slot_index` are required; where there are inner nodes, so are `children`, `direction`
    /// and `threshold`.
    ///
    /// A number of 0 or more in `root` and `children` is a slot, one below 0 the inner node
    /// `!number`. At a node a token goes to child 1 when `<direction, x> >= threshold`, else to
    /// child 0. Each node is below one clan or node at most; what free ones hold does not matter.
    ClansDescend for gmoe_clans_descend_args with gmoe_clans_options
    tensors {
        /// `[T, H]`, `f32`, `f64` or `bf16`: what the layer is given.
        hidden_states: TensorView,
        /// `[T, K]`, `i32` or `i64`: the router's index; C or more is absent.
        clan_index: TensorView,
        /// `[C]`, `i32`: where each clan's tree begins.
        root: TensorView,
        /// `[N, 2]`, `i32`.
        children: TensorView,
        /// `[N, H]`, `f32`, or `f64` when `hidden_states` are.
        direction: TensorView,
        /// `[N]`, as `direction`.
        threshold: TensorView,
        /// `[T, K]`, as `clan_index`: each token's slots; absent ones hold the number of slots.
        slot_index: TensorViewMut,
        /// `[slots]`, `i64`: the tokens of each slot.
        slot_counts: TensorViewMut,
    }
}

arguments! {
    /// What to sum of each slot's tokens, to decide where to split: `hidden_states` and
    /// `slot_index` are required, and what the wanted sums need. With d = x - mean and a = axis of
    /// the token's slot: tokens += 1, sum += x, square += |d|^2, power += <d, a> d, binding_sum +=
    /// binding, and the histogram's bin of <d, a>/scale += 1. A token whose numbers are not finite
    /// adds to `skipped` only. Everything but the first three is `f64`.
    ClansObserve for gmoe_clans_observe_args with gmoe_clans_options
    tensors {
        /// `[T, H]`, `f32`, `f64` or `bf16`.
        hidden_states: TensorView,
        /// `[T, K]`, `i32` or `i64`; the number of slots or more is absent.
        slot_index: TensorView,
        /// `[T, K]`, `f32` or `f64`: u of the chosen; for `binding_sum`.
        binding: TensorView,
        /// `[slots, H]`: the centre to measure from; zeros without it.
        mean: TensorView,
        /// `[slots, H]`, of length 1: for `power` and `histogram`.
        axis: TensorView,
        /// `[slots]`, finite and greater than 0: the half width of `histogram`.
        scale: TensorView,
        /// `[slots]`, added to.
        tokens: TensorViewMut,
        /// `[slots]`, added to.
        skipped: TensorViewMut,
        /// `[slots, H]`, added to.
        sum: TensorViewMut,
        /// `[slots]`, added to.
        square: TensorViewMut,
        /// `[slots, H]`, added to.
        power: TensorViewMut,
        /// `[slots]`, added to.
        binding_sum: TensorViewMut,
        /// `[slots, 64]`, added to; see [`Clans::HISTOGRAM_BINS`].
        histogram: TensorViewMut,
    }
}

/// Experts that split where the data is dense. A [`Router`](crate::Router) chooses among clans, a
/// centroid with a price each; the experts' weights lie in slots. A clan begins with one slot; a
/// split puts a hyperplane in the place of a leaf of its tree, and a copy of the leaf's expert on
/// either side. A clan that is not in use has a price of infinity. Trees are the caller's tensors.
///
/// ```
/// use genesis_moe::{Clans, ClansDescend, Engine, TensorView, TensorViewMut};
///
/// let clans = Clans::new(&Engine::new()?, 3);                         // three slots
/// // Clan 0 is slot 2. Clan 1 is node 0, the plane x_0 = 0.5: slot 0 below it, slot 1 above.
/// let (root, children) = ([2_i32, -1], [0_i32, 1]);
/// let (states, chosen) = ([1.0_f32, 0.0, 0.0, 1.0, 0.3, 0.3], [1_i64, 1, 0]);
/// let mut slots = [0_i64; 3];
/// clans.descend(
///     ClansDescend::new()
///         .hidden_states(TensorView::new(&states, &[3, 2])?)            // three tokens
///         .clan_index(TensorView::new(&chosen, &[3, 1])?)
///         .root(TensorView::new(&root, &[2])?)
///         .children(TensorView::new(&children, &[1, 2])?)
///         .direction(TensorView::new(&[1.0_f32, 0.0], &[1, 2])?)
///         .threshold(TensorView::new(&[0.5_f32], &[1])?)
///         .slot_index(TensorViewMut::new(&mut slots, &[3, 1])?),
/// )?;
/// assert_eq!(slots, [1, 0, 2]);
/// # Ok::<(), genesis_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clans {
    engine: Engine,
    options: sys::gmoe_clans_options,
}

impl Clans {
    /// The bins of the histogram of [`Clans::observe`].
    pub const HISTOGRAM_BINS: usize = sys::GMOE_CLANS_HISTOGRAM_BINS as usize;

    /// Clans that share so many slots, on an engine.
    pub fn new(engine: &Engine, slots: usize) -> Self {
        let num_slots = i32::try_from(slots).unwrap_or(i32::MAX);
        Self { engine: engine.clone(), options: sys::gmoe_clans_options { num_slots, ..sys::gmoe_clans_options::INIT } }
    }

    /// Finds the slot of every chosen clan.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) names what is missing or does not
    /// fit, and the node of a tree that is none.
    pub fn descend(&self, mut arguments: ClansDescend<'_>) -> Result<()> {
        let raw = arguments.fill(&self.options);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_clans_descend(self.engine.raw(), raw) })
    }

    /// The bytes of workspace that these arguments need on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Clans::descend`].
    pub fn descend_workspace_size(&self, arguments: &mut ClansDescend<'_>) -> Result<u64> {
        let (raw, mut bytes) = (arguments.fill(&self.options), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_clans_descend_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }

    /// Adds what each slot's tokens say about splitting it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) names what is missing or does not fit.
    pub fn observe(&self, mut arguments: ClansObserve<'_>) -> Result<()> {
        let raw = arguments.fill(&self.options);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_clans_observe(self.engine.raw(), raw) })
    }

    /// The bytes of workspace that these arguments need on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Clans::observe`].
    pub fn observe_workspace_size(&self, arguments: &mut ClansObserve<'_>) -> Result<u64> {
        let (raw, mut bytes) = (arguments.fill(&self.options), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_clans_observe_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }
}

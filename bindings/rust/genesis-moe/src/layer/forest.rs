use super::gate::Routing;
use super::parameter::{Parameter, rows, rows_mut};
use crate::error::{Result, invalid};
use crate::{Clans, ClansDescend, Engine, TensorView};

/// The trees of a layer that grows: for each clan that the router chooses among, its experts and the planes
/// between them. There are as many clans, inner nodes and experts as the layer may have at most.
#[derive(Clone, Debug)]
pub(super) struct Forest {
    clans: Clans,
    /// `[S]`: an expert, or `!node`. Whole numbers, in `f32` as all state is.
    root: Parameter,
    /// `[S, 2]`: the same of each node.
    children: Parameter,
    /// `[S, H]`.
    direction: Parameter,
    /// `[S]`: a token goes to child 1 where `<direction, x> >= threshold`.
    threshold: Parameter,
}

/// An expert in its tree.
pub(super) struct Leaf {
    pub expert: usize,
    pub clan: usize,
    /// The nodes above it from the root, and which child of each leads to it.
    pub path: Vec<(usize, usize)>,
}

impl Forest {
    pub fn new(engine: &Engine, slots: usize, hidden_size: usize) -> Self {
        let mut expert = 0..slots;
        Self {
            clans: Clans::new(engine, slots),
            root: Parameter::new("clans.root", &[slots], || expert.next().unwrap_or_default() as f32),
            children: Parameter::new("clans.children_of", &[slots, 2], || 0.0),
            direction: Parameter::new("clans.direction", &[slots, hidden_size], || 0.0),
            threshold: Parameter::new("clans.threshold", &[slots], || 0.0),
        }
    }

    fn slots(&self) -> usize {
        self.root.value().len()
    }

    /// The experts `[T, K]` of a routing over clans.
    pub fn descend(&self, x: &[f32], hidden_size: usize, routing: &Routing) -> Result<Vec<i64>> {
        let mut experts = vec![0; routing.index.len()];
        let (root, children) = (whole(&self.root), whole(&self.children));
        self.clans.descend(
            ClansDescend::new()
                .hidden_states(rows(x, hidden_size))
                .clan_index(rows(&routing.index, routing.top_k))
                .root(TensorView::new(&root, self.root.shape())?)
                .children(TensorView::new(&children, self.children.shape())?)
                .direction(self.direction.view())
                .threshold(self.threshold.view())
                .slot_index(rows_mut(&mut experts, routing.top_k)),
        )?;
        Ok(experts)
    }

    /// The experts at work, clan by clan; price says which clans are open. Of what is no tree, as a damaged
    /// checkpoint has and `descend` refuses, each node counts once.
    pub fn leaves(&self, price: &[f32]) -> Vec<Leaf> {
        let (root, children) = (whole(&self.root), whole(&self.children));
        let mut reached = vec![false; self.slots()];
        let mut found = Vec::new();
        let open = (0..self.slots()).filter(|&clan| price[clan] != f32::INFINITY).rev();
        let mut ahead: Vec<_> = open.map(|clan| (root[clan], clan, Vec::new())).collect();
        while let Some((number, clan, path)) = ahead.pop() {
            match usize::try_from(number) {
                Ok(expert) => found.push(Leaf { expert, clan, path }),
                Err(_) => {
                    let node = !number as usize;
                    if reached.get(node).is_none_or(|&reached| reached) {
                        continue;
                    }
                    reached[node] = true;
                    for side in [1, 0] {
                        let mut path = path.clone();
                        path.push((node, side));
                        ahead.push((children[2 * node + side], clan, path));
                    }
                }
            }
        }
        found
    }

    /// Puts a plane in the place of a leaf: below it the leaf's expert, above it another. Returns that one.
    pub fn divide(&mut self, leaf: &Leaf, leaves: &[Leaf], direction: &[f32], threshold: f32) -> Result<usize> {
        let free = |used: &dyn Fn(usize) -> bool| (0..self.slots()).find(|&number| !used(number));
        let other = free(&|expert| leaves.iter().any(|leaf| leaf.expert == expert));
        let node = free(&|node| leaves.iter().any(|leaf| leaf.path.iter().any(|&(above, _)| above == node)));
        let (Some(other), Some(node)) = (other, node) else {
            return Err(invalid!("expert: {}, but all max_experts = {} are in use", leaf.expert, self.slots()));
        };
        self.children.value_mut()[2 * node..2 * node + 2].copy_from_slice(&[leaf.expert as f32, other as f32]);
        self.direction
            .value_mut()
            .chunks_exact_mut(direction.len())
            .nth(node)
            .expect("a row")
            .copy_from_slice(direction);
        self.threshold.value_mut()[node] = threshold;
        match leaf.path.last() {
            Some(&(above, side)) => self.children.value_mut()[2 * above + side] = !(node as i32) as f32,
            None => self.root.value_mut()[leaf.clan] = !(node as i32) as f32,
        }
        Ok(other)
    }

    pub fn buffers(&self) -> impl Iterator<Item = &Parameter> {
        [&self.root, &self.children, &self.direction, &self.threshold].into_iter()
    }

    pub fn buffers_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        [&mut self.root, &mut self.children, &mut self.direction, &mut self.threshold].into_iter()
    }
}

fn whole(numbers: &Parameter) -> Vec<i32> {
    numbers.value().iter().map(|&number| number as i32).collect()
}

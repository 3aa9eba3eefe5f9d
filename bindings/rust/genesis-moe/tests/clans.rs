//! Clans, their slots and closed experts.

use genesis_moe::{
    Clans, ClansDescend, ClansObserve, Engine, Error, Router, RouterForward, RouterOptions, TensorView, TensorViewMut,
};

/// Clan 0 is slot 2, clan 1 the plane x_0 = 0.5 with slots 0 and 1.
fn descend(children: [i32; 2]) -> Result<([i64; 4], [i64; 3]), Error> {
    let clans = Clans::new(&Engine::new()?, 3);
    let (mut slots, mut counts) = ([0_i64; 4], [0_i64; 3]);
    let mut arguments = ClansDescend::new()
        .hidden_states(TensorView::new(&[1.0_f64, 0.0, 0.0, 1.0, 0.5, 0.3, f64::NAN, 0.0], &[4, 2])?)
        .clan_index(TensorView::new(&[1_i64, 1, 1, 0], &[4, 1])?)
        .root(TensorView::new(&[2_i32, -1], &[2])?)
        .children(TensorView::new(&children, &[1, 2])?)
        .direction(TensorView::new(&[1.0_f64, 0.0], &[1, 2])?)
        .threshold(TensorView::new(&[0.5_f64], &[1])?)
        .slot_index(TensorViewMut::new(&mut slots, &[4, 1])?)
        .slot_counts(TensorViewMut::new(&mut counts, &[3])?);
    assert_eq!(clans.descend_workspace_size(&mut arguments)?, 0);
    clans.descend(arguments)?;
    Ok((slots, counts))
}

#[test]
fn tokens_go_to_their_side_of_a_plane() {
    assert_eq!(descend([0, 1]).unwrap(), ([1, 0, 1, 2], [1, 2, 1]));
}

#[test]
fn a_tree_that_is_none_is_refused() {
    let refused = descend([0, -1]).unwrap_err().to_string();
    assert!(refused.contains("children: node 0 (-1) is reached twice"), "{refused}");
    let refused = descend([0, 3]).unwrap_err().to_string();
    assert!(refused.contains("children: 3 for side 1 of node 0, want a slot 0 to 2"), "{refused}");
}

#[test]
fn sums_are_added_to() {
    let clans = Clans::new(&Engine::new().unwrap(), 2);
    let (mut tokens, mut power) = ([1.0_f64, 0.0], [0.0_f64; 4]);
    let mut histogram = vec![0.0_f64; 2 * Clans::HISTOGRAM_BINS];
    let mut arguments = ClansObserve::new()
        .hidden_states(TensorView::new(&[3.0_f32, 1.0, -1.0, 1.0, 5.0, 5.0], &[3, 2]).unwrap())
        .slot_index(TensorView::new(&[0_i32, 0, 2], &[3, 1]).unwrap())
        .axis(TensorView::new(&[1.0_f64, 0.0, 1.0, 0.0], &[2, 2]).unwrap())
        .scale(TensorView::new(&[4.0_f64, 4.0], &[2]).unwrap())
        .tokens(TensorViewMut::new(&mut tokens, &[2]).unwrap())
        .power(TensorViewMut::new(&mut power, &[2, 2]).unwrap())
        .histogram(TensorViewMut::new(&mut histogram, &[2, 64]).unwrap());
    assert_eq!(clans.observe_workspace_size(&mut arguments).unwrap(), 0);
    clans.observe(arguments).unwrap();
    assert_eq!(tokens, [3.0, 0.0]);
    assert_eq!(power, [10.0, 2.0, 0.0, 0.0]);
    assert_eq!((histogram[56], histogram[24], histogram.iter().sum()), (1.0, 1.0, 2.0));
}

#[test]
fn a_closed_expert_is_not_chosen() {
    let router = Router::new(&Engine::new().unwrap(), RouterOptions::hamiltonian().top_k(1));
    let (mut index, mut weights) = ([0_i64; 2], [0.0_f32; 2]);
    let route = |price: &[f32], index: &mut [i64], weights: &mut [f32]| {
        router.forward(
            RouterForward::new()
                .hidden_states(TensorView::new(&[1.0_f32, 0.0, 0.0, 1.0], &[2, 2]).unwrap())
                .centroids(TensorView::new(&[1.0_f32, 0.0, 0.0, 1.0], &[2, 2]).unwrap())
                .price(TensorView::new(price, &[2]).unwrap())
                .top_k_index(TensorViewMut::new(index, &[2, 1]).unwrap())
                .top_k_weights(TensorViewMut::new(weights, &[2, 1]).unwrap()),
        )
    };
    route(&[0.0, f32::INFINITY], &mut index, &mut weights).unwrap();
    assert_eq!(index, [0, 0]);
    let refused = route(&[f32::INFINITY; 2], &mut index, &mut weights).unwrap_err().to_string();
    assert!(refused.contains("want at least top_k = 1 open ones"), "{refused}");
}

//! Arrays of `ndarray`, of any layout, are tensors in place.
#![cfg(feature = "ndarray")]

use genesis_moe::{Engine, Router, RouterForward, RouterOptions};
use ndarray::{Array1, Array2, s};

#[test]
fn arrays_of_any_layout() {
    let router = Router::new(&Engine::new().unwrap(), RouterOptions::hamiltonian());
    let x = Array2::from_shape_fn((6, 4), |(t, h)| ((5 * t + 3 * h) as f64).sin());
    let centroids = Array2::from_shape_fn((5, 4), |(e, d)| ((7 * e + d) as f64).cos());
    let price = Array1::from_vec(vec![0.0, 0.1, -0.1, 0.2, 0.0]);
    let route = |x: ndarray::ArrayView2<'_, f64>, centroids: ndarray::ArrayView2<'_, f64>| {
        let mut index = Array2::<i64>::zeros((6, 2));
        let mut weights = Array2::<f64>::zeros((2, 6)).reversed_axes();
        let arguments = RouterForward::new()
            .hidden_states(&x)
            .centroids(&centroids)
            .price(&price)
            .top_k_index(&mut index)
            .top_k_weights(&mut weights);
        router.forward(arguments).unwrap();
        (index, weights)
    };
    let (index, weights) = route(x.view(), centroids.view());
    assert!(weights.sum_axis(ndarray::Axis(1)).iter().all(|sum| (sum - 1.0).abs() < 1e-12));

    // Transposed copies, and rows in reverse through negative strides.
    let (columns, flipped) = (x.t().as_standard_layout().into_owned(), x.slice(s![..;-1, ..]).to_owned());
    assert_eq!(route(columns.t(), centroids.view()), (index.clone(), weights.clone()));
    assert_eq!(route(flipped.slice(s![..;-1, ..]), centroids.view()), (index, weights));
}

//! Views: no element outside the slice can be reached, and the library refuses what does not fit.

use genesis_moe::{
    Engine, Error, Experts, ExpertsForward, ExpertsOptions, Router, RouterForward, RouterOptions, TensorView,
    TensorViewMut, genesis_moe_sys as sys,
};

#[test]
fn views_stay_within_their_slices() {
    let data = [0.0_f32; 12];
    for (shape, strides) in [
        (&[4, 3][..], &[3, 1][..]),
        (&[3, 4], &[1, 3]),
        (&[2, 2], &[6, 5]),
        (&[0, 1 << 60], &[1, 1]),
        (&[5, 12], &[0, 1]),
        (&[], &[]),
    ] {
        TensorView::strided(&data, shape, strides).unwrap();
    }
    for (shape, strides) in [
        (&[4, 4][..], &[3, 1][..]),
        (&[13], &[1]),
        (&[2, 2], &[11, 1]),
        (&[usize::MAX, 2], &[usize::MAX, 1]),
        (&[3], &[usize::MAX]),
        (&[2, 2], &[usize::MAX / 2 + 1, usize::MAX / 2 + 1]),
        (&[4, 3], &[1]),
    ] {
        let error = TensorView::strided(&data, shape, strides).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{shape:?} {strides:?}");
    }
    let error = TensorView::new(&data, &[5, 3]).unwrap_err();
    assert_eq!(error.to_string(), "data: 12 elements, want 15 for shape [5, 3]");
    let error = TensorView::new(&data, &[usize::MAX, 2]).unwrap_err();
    assert!(error.to_string().contains("more than memory holds"), "{error}");
    assert!(TensorView::new::<f32>(&[], &[]).is_err());
    assert_eq!(
        TensorView::new(&data, &[0, usize::MAX]).unwrap_err().to_string(),
        "data: 12 elements, want 0 for shape [0, 18446744073709551615]"
    );
    assert_eq!(TensorView::new(&data, &[12]).unwrap().shape(), TensorView::from(&data[..]).shape());
}

#[test]
fn transposed_weights_are_read_in_place() {
    let experts = Experts::new(&Engine::new().unwrap(), ExpertsOptions::new());
    let x = [1.0_f32, -2.0, 0.5];
    let gate_up: Vec<f32> = (0..2 * 4 * 3).map(|i| (i as f32).cos()).collect(); // [2, 4, 3]
    let down: Vec<f32> = (0..2 * 3 * 2).map(|i| (i as f32).sin()).collect(); // [2, 3, 2]
    let transposed: Vec<f32> = (0..2 * 3 * 4).map(|i| gate_up[(i / 12) * 12 + (i % 4) * 3 + (i % 12) / 4]).collect(); // [2, 3, 4]
    let run = |gate_up: TensorView<'_>| {
        let mut output = [0.0_f32; 3];
        let mut arguments = ExpertsForward::new()
            .hidden_states(TensorView::new(&x, &[1, 3]).unwrap())
            .top_k_index(TensorView::new(&[1_i32, 0], &[1, 2]).unwrap())
            .top_k_weights(TensorView::new(&[0.25_f32, 0.75], &[1, 2]).unwrap())
            .gate_up_proj(gate_up)
            .down_proj(TensorView::new(&down, &[2, 3, 2]).unwrap())
            .output(TensorViewMut::new(&mut output, &[1, 3]).unwrap());
        assert_eq!(experts.forward_workspace_size(&mut arguments).unwrap(), 0);
        experts.forward(arguments).unwrap();
        output
    };
    let plain = run(TensorView::new(&gate_up, &[2, 4, 3]).unwrap());
    let strided = run(TensorView::strided(&transposed, &[2, 4, 3], &[12, 1, 4]).unwrap());
    for (plain, strided) in plain.iter().zip(&strided) {
        assert!((plain - strided).abs() < 1e-6);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let router = Router::new(&Engine::new().unwrap(), RouterOptions::hamiltonian());
    let x = [0.5_f32; 8];
    let refused = |arguments: RouterForward<'_>| match router.forward(arguments) {
        Err(Error::InvalidArgument(message)) => message,
        other => panic!("{other:?}"),
    };
    assert!(refused(RouterForward::new()).contains("hidden_states"));
    let (mut index, mut weights) = ([0_i64; 4], [0.0_f32; 4]);
    let mut arguments = |centroids: TensorView<'static>| {
        // The closure is called once at a time: the outputs are free again after each call.
        let (index, weights) = (index.as_mut_slice(), weights.as_mut_slice());
        let arguments = RouterForward::new()
            .hidden_states(TensorView::new(&x, &[2, 4]).unwrap())
            .centroids(centroids)
            .top_k_index(TensorViewMut::new(index, &[2, 2]).unwrap())
            .top_k_weights(TensorViewMut::new(weights, &[2, 2]).unwrap());
        refused(arguments)
    };
    static CENTROIDS: [f32; 15] = [1.0; 15];
    static DOUBLES: [f64; 12] = [1.0; 12];
    static INTEGERS: [i64; 12] = [1; 12];
    assert!(arguments(TensorView::new(&CENTROIDS, &[3, 5]).unwrap()).contains("centroids: shape [3, 5]"));
    assert!(arguments(TensorView::new(&DOUBLES, &[3, 4]).unwrap()).contains("centroids"));
    assert!(arguments(TensorView::new(&INTEGERS, &[3, 4]).unwrap()).contains("centroids"));
    assert!(arguments(TensorView::from(&CENTROIDS[..12])).contains("centroids: shape [12]"));
    assert!(arguments(TensorView::new(&CENTROIDS[..4], &[1, 4]).unwrap()).contains("top_k"));
}

#[test]
fn outputs_that_overlap_themselves_are_refused() {
    let router = Router::new(&Engine::new().unwrap(), RouterOptions::hamiltonian());
    let (x, centroids) = ([0.5_f32; 8], [1.0_f32; 12]);
    let (mut index, mut weights) = ([0_i64; 4], [0.0_f32; 4]);
    let arguments = RouterForward::new()
        .hidden_states(TensorView::new(&x, &[2, 4]).unwrap())
        .centroids(TensorView::new(&centroids, &[3, 4]).unwrap())
        .top_k_index(TensorViewMut::strided(&mut index, &[2, 2], &[0, 1]).unwrap())
        .top_k_weights(TensorViewMut::new(&mut weights, &[2, 2]).unwrap());
    assert!(router.forward(arguments).unwrap_err().to_string().contains("top_k_index"));
}

#[test]
fn hostile_dlpack_tensors_are_refused() {
    let router = Router::new(&Engine::new().unwrap(), RouterOptions::hamiltonian());
    let mut data = [0.5_f32; 8];
    let (mut shape, mut strides) = ([2_i64, 4], [4_i64, 1]);
    let good = sys::DLTensor {
        data: data.as_mut_ptr().cast(),
        device: sys::DLDevice { device_type: sys::kDLCPU, device_id: 0 },
        ndim: 2,
        dtype: sys::DLDataType { code: sys::kDLFloat, bits: 32, lanes: 1 },
        shape: shape.as_mut_ptr(),
        strides: strides.as_mut_ptr(),
        byte_offset: 0,
    };
    let dtype = |code, bits, lanes| sys::DLDataType { code, bits, lanes };
    for (bad, word) in [
        (sys::DLTensor { ndim: -1, ..good }, "ndim"),
        (sys::DLTensor { shape: std::ptr::null_mut(), ..good }, "shape is NULL"),
        (sys::DLTensor { data: std::ptr::null_mut(), ..good }, "data is NULL"),
        (sys::DLTensor { byte_offset: 2, ..good }, "aligned"),
        (sys::DLTensor { dtype: dtype(sys::kDLFloat, 16, 1), ..good }, "16 bits"),
        (sys::DLTensor { dtype: dtype(sys::kDLFloat, 32, 4), ..good }, "4 lanes"),
        (sys::DLTensor { device: sys::DLDevice { device_type: 7, device_id: 0 }, ..good }, "device_type 7"),
    ] {
        // SAFETY: what it points to outlives the call; the rest is what the library must refuse.
        let view = unsafe { TensorView::from_dlpack(&bad) };
        let message = router.forward(RouterForward::new().hidden_states(view)).unwrap_err().to_string();
        assert!(message.contains("hidden_states") && message.contains(word), "{message}");
    }
}

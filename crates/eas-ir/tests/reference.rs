//! The reference evaluator against numbers made by hand.

use eas_ir::{
    Forward, Gradients, Images, Mode, Model, Network, NodeId, Op, ParamId, Reference, Rng, Role,
    Shape, Weights, tensor,
};

use crate::networks::{random_images, random_model, random_network};

const INPUT: NodeId = NodeId::new(0);

/// Input, operation, flatten where needed: the logits are the operation's output, row-major.
fn model(input: [usize; 3], op: Op, inputs: &[NodeId], parameters: &[(Role, &[f32])]) -> Model {
    let [channels, height, width] = input;
    let image = Shape::Image { channels, height, width };
    let mut network = Network::new();
    network.push(Op::Input { shape: image }, &[], None);
    if inputs.contains(&NodeId::new(1)) {
        network.push(Op::Relu, &[INPUT], None);
    }
    let node = network.push(op, inputs, None);
    if !matches!(op, Op::GlobalPool | Op::Flatten) {
        network.push(Op::Flatten, &[node], None);
    }
    let shapes = op.parameters(&[image]);
    let weights: Weights = parameters
        .iter()
        .map(|(role, values)| {
            let (_, shape) = shapes.iter().find(|(known, _)| known == role).expect("a known role");
            (ParamId::new(node, *role), tensor(shape, values.to_vec()))
        })
        .collect();
    Model::new(network, weights).unwrap()
}

fn images(batch: usize, [channels, height, width]: [usize; 3], values: &[f32]) -> Images {
    Images::from_shape_vec((batch, channels, height, width), values.to_vec()).unwrap()
}

fn one_to(last: usize) -> Vec<f32> {
    (1..=last).map(|value| value as f32).collect()
}

#[test]
fn each_operation_gives_the_numbers_made_by_hand() {
    let conv = |filters, kernel, stride, padding, groups, bias| Op::Conv {
        filters,
        kernel,
        stride,
        padding,
        groups,
        bias,
    };
    struct Case {
        claim: &'static str,
        op: Op,
        parameters: Vec<(Role, Vec<f32>)>,
        input: [usize; 3],
        image: Vec<f32>,
        expected: Vec<f64>,
    }
    let case = |claim, op, input: [usize; 3], image: Vec<f32>, expected: &[f64]| Case {
        claim,
        op,
        parameters: Vec::new(),
        input,
        image,
        expected: expected.to_vec(),
    };
    let with = |case: Case, parameters: &[(Role, &[f32])]| Case {
        parameters: parameters.iter().map(|(role, values)| (*role, values.to_vec())).collect(),
        ..case
    };
    let cases = [
        with(
            case(
                "a convolution is a cross-correlation over an image padded with zeros",
                conv(1, 3, 1, 1, 1, false),
                [1, 3, 3],
                one_to(9),
                &[94.0, 154.0, 106.0, 186.0, 285.0, 186.0, 106.0, 154.0, 94.0],
            ),
            &[(Role::Weight, &one_to(9))],
        ),
        with(
            case(
                "windows that step over a padded image start in its padding, and leave the end unread",
                conv(1, 3, 2, 1, 1, false),
                [1, 4, 4],
                one_to(16),
                &[111.0, 217.0, 363.0, 573.0],
            ),
            &[(Role::Weight, &one_to(9))],
        ),
        with(
            case(
                "a kernel may be as large as the padded image",
                conv(1, 3, 3, 1, 1, false),
                [1, 1, 1],
                vec![2.0],
                &[10.0],
            ),
            &[(Role::Weight, &one_to(9))],
        ),
        with(
            case(
                "a stride drops the windows that would leave the image",
                conv(1, 2, 2, 0, 1, true),
                [1, 3, 3],
                one_to(9),
                &[5421.5],
            ),
            &[(Role::Weight, &[1.0, 10.0, 100.0, 1000.0]), (Role::Bias, &[0.5])],
        ),
        with(
            case(
                "a group of filters sees its own group of channels",
                conv(4, 1, 1, 0, 2, false),
                [4, 1, 1],
                one_to(4),
                &[21.0, 2100.0, 43.0, 4300.0],
            ),
            &[(Role::Weight, &[1.0, 10.0, 100.0, 1000.0, 1.0, 10.0, 100.0, 1000.0])],
        ),
        with(
            case(
                "a depthwise convolution has as many groups as channels",
                conv(4, 1, 1, 0, 2, false),
                [2, 1, 1],
                vec![10.0, 20.0],
                &[10.0, 20.0, 60.0, 80.0],
            ),
            &[(Role::Weight, &one_to(4))],
        ),
        with(
            case(
                "filters are outermost, channels next",
                conv(2, 1, 1, 0, 1, true),
                [2, 1, 2],
                one_to(4),
                &[31.5, 42.5, 3098.0, 4198.0],
            ),
            &[(Role::Weight, &[1.0, 10.0, 100.0, 1000.0]), (Role::Bias, &[0.5, -2.0])],
        ),
        with(
            case(
                "batch norm in evaluation mode uses the running statistics",
                Op::BatchNorm { epsilon: 1.0 },
                [2, 1, 1],
                vec![5.0, -2.0],
                &[4.5, 8.0],
            ),
            &[
                (Role::Gamma, &[2.0, -3.0]),
                (Role::Beta, &[0.5, 2.0]),
                (Role::Mean, &[1.0, 0.0]),
                (Role::Variance, &[3.0, 0.0]),
            ],
        ),
        case(
            "the border of a max pool counts as less than any number",
            Op::MaxPool { size: 3, stride: 2, padding: 1 },
            [1, 2, 2],
            vec![-4.0, -2.0, -3.0, -7.0],
            &[-2.0],
        ),
        case(
            "max pools slide over every channel for itself",
            Op::MaxPool { size: 2, stride: 1, padding: 0 },
            [2, 2, 3],
            one_to(12),
            &[5.0, 6.0, 11.0, 12.0],
        ),
        case(
            "an average pool drops the last column where its window would leave the image",
            Op::AveragePool { size: 2, stride: 2 },
            [1, 2, 3],
            vec![1.0, 2.0, 99.0, 3.0, 4.0, 99.0],
            &[2.5],
        ),
        case(
            "a global pool is each channel's mean",
            Op::GlobalPool,
            [2, 1, 2],
            one_to(4),
            &[1.5, 3.5],
        ),
        case(
            "flatten is channel-major",
            Op::Flatten,
            [2, 2, 2],
            one_to(8),
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        ),
        case("relu", Op::Relu, [1, 1, 3], vec![-1.0, 0.0, 2.0], &[0.0, 0.0, 2.0]),
        case(
            "dropout is the identity",
            Op::Dropout { rate: 0.5 },
            [1, 1, 2],
            one_to(2),
            &[1.0, 2.0],
        ),
    ];
    for Case { claim, op, parameters, input, image, expected } in cases {
        let parameters: Vec<(Role, &[f32])> =
            parameters.iter().map(|(role, values)| (*role, values.as_slice())).collect();
        let model = model(input, op, &[INPUT], &parameters);
        // Of these operations, batch norm alone has a mode.
        let both = [Mode::Evaluation, Mode::Training];
        let modes = if matches!(op, Op::BatchNorm { .. }) { &both[..1] } else { &both };
        for mode in modes {
            let logits = Reference.logits(&model, &images(1, input, &image), *mode).unwrap();
            assert_eq!(logits.into_raw_vec_and_offset().0, expected, "{claim}, {mode:?}");
        }
    }
}

#[test]
fn a_linear_layer_multiplies_by_its_rows() {
    let mut network = Network::new();
    network.push(Op::Input { shape: Shape::Flat { features: 2 } }, &[], None);
    let linear = network.push(Op::Linear { units: 2, bias: true }, &[INPUT], None);
    let weights: Weights = [
        (ParamId::new(linear, Role::Weight), tensor(&[2, 2], one_to(4))),
        (ParamId::new(linear, Role::Bias), tensor(&[2], vec![0.5, -0.5])),
    ]
    .into();
    let model = Model::new(network, weights).unwrap();
    let images = images(2, [2, 1, 1], &[5.0, 6.0, 1.0, 0.0]);
    let logits = Reference.logits(&model, &images, Mode::Evaluation).unwrap();
    assert_eq!(logits, ndarray::array![[17.5, 38.5], [1.5, 2.5]]);
}

#[test]
fn add_sums_and_concat_appends() {
    let relu = NodeId::new(1);
    let cases = [
        (Op::Add, vec![INPUT, relu, relu], vec![-1.0, 6.0]),
        (Op::Concat, vec![relu, INPUT], vec![0.0, 2.0, -1.0, 2.0]),
    ];
    for (op, inputs, expected) in cases {
        let model = model([2, 1, 1], op, &inputs, &[]);
        let images = images(1, [2, 1, 1], &[-1.0, 2.0]);
        let logits = Reference.logits(&model, &images, Mode::Evaluation).unwrap();
        assert_eq!(logits.into_raw_vec_and_offset().0, expected, "{op}");
    }
}

#[test]
fn batch_norm_in_training_mode_uses_the_batch_and_keeps_its_running_statistics() {
    let parameters: [(Role, &[f32]); 4] = [
        (Role::Gamma, &[2.0]),
        (Role::Beta, &[0.5]),
        (Role::Mean, &[100.0]),
        (Role::Variance, &[100.0]),
    ];
    let model = model([1, 1, 2], Op::BatchNorm { epsilon: 3.0 }, &[INPUT], &parameters);
    // Over both images and both pixels: mean 2, biased variance 1, deviation with epsilon 2.
    let images = images(2, [1, 1, 2], &[1.0, 3.0, 3.0, 1.0]);
    let logits = Reference.logits(&model, &images, Mode::Training).unwrap();
    assert_eq!(logits, ndarray::array![[-0.5, 1.5], [1.5, -0.5]]);
    let moments = Reference.moments(&model, &images, &[INPUT]).unwrap();
    assert_eq!(
        (moments[&INPUT].mean.as_slice(), moments[&INPUT].variance.as_slice()),
        (&[2.0][..], &[1.0][..])
    );
}

#[test]
fn of_equal_pixels_a_max_pool_follows_the_first() {
    // Both pixels give 1 + 2 = 3, from (1, 2) and from (2, 1): the gradient of the convolution's
    // weights is in proportion to the pixel that was followed.
    let mut network = Network::new();
    let image = Shape::Image { channels: 2, height: 1, width: 2 };
    let mut tip = network.push(Op::Input { shape: image }, &[], None);
    let pool = Op::MaxPool { size: 3, stride: 2, padding: 1 };
    for op in [Op::conv(1, 1), pool, Op::Flatten, Op::Linear { units: 2, bias: false }] {
        tip = network.push(op, &[tip], None);
    }
    let convolution = ParamId::new(NodeId::new(1), Role::Weight);
    let weights: Weights = [
        (convolution, tensor(&[1, 2, 1, 1], vec![1.0, 1.0])),
        (ParamId::new(tip, Role::Weight), tensor(&[2, 1], vec![1.0, 0.0])),
    ]
    .into();
    let model = Model::new(network, weights).unwrap();
    let images = images(1, [2, 1, 2], &[1.0, 2.0, 2.0, 1.0]);
    let gradients = Reference.gradients(&model, &images, &[0]).unwrap();
    // The logits are 3 and 0, so the slope at the pool is p - 1 = -1 / (1 + e^3).
    let slope = -1.0 / (1.0 + 3f64.exp());
    let expected = tensor(&[1, 2, 1, 1], vec![slope as f32, (2.0 * slope) as f32]);
    assert_eq!(gradients[&convolution], expected);
}

#[test]
fn what_does_not_fit_the_model_is_an_error() {
    let network = random_network(&mut Rng::new(3));
    let model = random_model(network, &mut Rng::new(4));
    let fitting = random_images(&model, 2, &mut Rng::new(5));
    let (_, channels, height, width) = fitting.dim();
    let wrong = Images::zeros((2, channels + 1, height, width));
    let none = Images::zeros((0, channels, height, width));
    let check = |result: anyhow::Result<()>, expected: &str| {
        let error = result.expect_err(expected).to_string();
        assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
    };
    let logits = |images| Reference.logits(&model, images, Mode::Evaluation).map(drop);
    let gradients = |labels: &[usize]| Reference.gradients(&model, &fitting, labels).map(drop);
    check(logits(&wrong), "expected images of");
    check(logits(&none), "expected at least one image, found none");
    check(gradients(&[0]), "expected 2 labels, found 1");
    check(gradients(&[0, model.classes()]), "expected labels below");
    let unknown = NodeId::new(999);
    check(Reference.moments(&model, &fitting, &[unknown]).map(drop), "no node n999");
}

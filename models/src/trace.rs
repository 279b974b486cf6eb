//! Intermediate values of a forward pass, for finding the first wrong number.

use burn::tensor::{DType, Tensor};
use glm_backends::ops::Routed;

/// One recorded tensor, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRecord {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The values.
    pub values: Values,
}

/// Values of a recorded tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// All floats.
    F32(Vec<f32>),
    /// All ids.
    I64(Vec<i64>),
}

/// Records values by name, or does nothing. Steps of one sequence are joined row after row.
#[derive(Debug, Default)]
pub struct Trace {
    records: Option<Vec<(String, TensorRecord)>>,
    live_rows: usize,
}

impl Trace {
    /// A trace that records nothing and costs nothing.
    pub fn off() -> Self {
        Trace::default()
    }

    /// A trace that reads every value it is shown back from the device.
    pub fn on() -> Self {
        Trace { records: Some(Vec::new()), live_rows: 0 }
    }

    /// Says how many rows of the next step are tokens; the rows after them are padding.
    pub fn begin_step(&mut self, live_rows: usize) {
        self.live_rows = live_rows;
    }

    /// What was recorded, in the order of the graph.
    pub fn into_records(self) -> Vec<(String, TensorRecord)> {
        self.records.unwrap_or_default()
    }

    /// The trace of layer `index`.
    pub fn layer(&mut self, index: usize) -> LayerTrace<'_> {
        LayerTrace { trace: self, index }
    }

    /// Records `values [tokens, ..]` under `name`.
    pub fn floats<const D: usize>(&mut self, name: &str, values: &Tensor<D>) {
        if self.records.is_none() {
            return;
        }
        let mut shape = values.dims().to_vec();
        let width: usize = shape[1..].iter().product();
        let data = values.clone().cast(DType::F32).into_data();
        let mut values = data.try_into_vec_as::<f32>().expect("float values");
        shape[0] = self.live_rows;
        values.truncate(self.live_rows * width);
        self.push(name, TensorRecord { shape, values: Values::F32(values) });
    }

    fn push(&mut self, name: &str, record: TensorRecord) {
        let Some(records) = &mut self.records else { return };
        match records.iter_mut().find(|(held, _)| held == name) {
            None => records.push((name.to_owned(), record)),
            Some((_, held)) => {
                held.shape[0] += record.shape[0];
                match (&mut held.values, record.values) {
                    (Values::F32(held), Values::F32(new)) => held.extend(new),
                    (Values::I64(held), Values::I64(new)) => held.extend(new),
                    _ => panic!("{name} changed its type"),
                }
            }
        }
    }
}

/// A trace that adds `.layerK` to every name.
#[derive(Debug)]
pub struct LayerTrace<'a> {
    trace: &'a mut Trace,
    index: usize,
}

impl LayerTrace<'_> {
    /// Records `values [tokens, ..]` under `name.layerK`.
    pub fn floats<const D: usize>(&mut self, name: &str, values: &Tensor<D>) {
        if self.trace.records.is_some() {
            self.trace.floats(&format!("{name}.layer{}", self.index), values);
        }
    }

    /// [`Self::floats`] of what `values` gives, which is asked only if something is recorded.
    pub fn floats_of<const D: usize>(&mut self, name: &str, values: impl FnOnce() -> Tensor<D>) {
        if self.trace.records.is_some() {
            self.floats(name, &values());
        }
    }

    /// Records the chosen ones among the first `choices` of each token's experts in ascending order
    pub fn routed(&mut self, routed: &Routed, choices: usize) {
        if self.trace.records.is_none() {
            return;
        }
        let [_, taken] = routed.experts.dims();
        let rows = self.trace.live_rows;
        let ids = routed.experts.to_data().try_to_vec_as::<i64>().expect("expert ids");
        let weights = routed.weights.to_data().try_to_vec_as::<f32>().expect("expert weights");
        let pairs: Vec<(i64, f32)> = ids.into_iter().zip(weights).collect();
        let chosen = pairs.chunks(taken).take(rows).flat_map(|row| &row[..choices]);
        let mut pairs: Vec<(i64, f32)> = chosen.copied().collect();
        for row in pairs.chunks_mut(choices) {
            row.sort_by_key(|(id, _)| *id);
        }
        let (ids, weights) = pairs.into_iter().unzip();
        let shape = vec![rows, choices];
        let name = |name: &str| format!("{name}.layer{}", self.index);
        let (ids_name, weights_name) = (name("router_topk_ids"), name("router_topk_weights"));
        self.trace.push(&ids_name, TensorRecord { shape: shape.clone(), values: Values::I64(ids) });
        self.trace.push(&weights_name, TensorRecord { shape, values: Values::F32(weights) });
    }
}

//! Every tensor that a checkpoint of a configuration holds: name, shape, and what it is for.
//!
//! This is the hub's layout before any quantisation, one tensor per expert and projection, with
//! the copies of embedding and head that most checkpoints keep beside the multi-token-prediction
//! layer (GLM-4.6 leaves them out). What differs in layer and expert only is one [`TensorGroup`],
//! so that sums over 45,000 tensors cost some forty additions.

use std::ops::Range;

use crate::config::{Config, Skeleton, wide};

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Full name.
    pub name: String,
    /// Length of each axis; a matrix is `[out, in]`.
    pub shape: Vec<usize>,
    /// What it is for.
    pub part: Part,
    /// How it is stored.
    pub form: Form,
    /// Whether it belongs to a multi-token-prediction layer.
    pub mtp: bool,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Table of token embeddings.
    Embedding,
    /// Projection to the logits.
    Head,
    /// Weights of norms.
    Norm,
    /// Projections of attention, with their biases.
    Attention,
    /// The feed-forward part of a layer without experts.
    DenseMlp,
    /// The choice of experts.
    Router,
    /// The experts that the router chooses from.
    RoutedExperts,
    /// The expert that always runs.
    SharedExpert,
    /// What a prediction layer has around its decoder layer: the projection of embedding and
    /// hidden state, and their norms. The decoder layer in it keeps the parts above.
    Prediction,
}

impl Part {
    /// All parts, in the order of the graph.
    pub const ALL: [Part; 9] = [
        Part::Embedding,
        Part::Head,
        Part::Norm,
        Part::Attention,
        Part::DenseMlp,
        Part::Router,
        Part::RoutedExperts,
        Part::SharedExpert,
        Part::Prediction,
    ];
}

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The weight of a linear layer, which a quantised checkpoint may hold in FP8 with a
    /// `weight_scale` beside it.
    Matrix,
    /// In the model's dtype.
    Plain,
    /// In f32 whatever the model's dtype.
    Wide,
}

/// What of a tensor one device holds when a model is divided over several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// All of it.
    Whole,
    /// The query heads that are its own.
    Heads,
    /// The key and value heads that its query heads read: with more devices than such heads,
    /// several devices hold the same one.
    KvHeads,
    /// Part of the inner width of a feed-forward network.
    Width,
    /// Some of the experts, or part of the inner width of each.
    Experts,
}

/// Tensors that differ in layer and expert only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorGroup {
    /// Full name, with `{layer}` and `{expert}` in the place of numbers.
    pub pattern: String,
    /// The layers that have such a tensor; `0..1` for a tensor outside of layers.
    pub layers: Range<usize>,
    /// How many of them a layer has.
    pub experts: usize,
    /// Length of each axis of one of them.
    pub shape: Vec<usize>,
    /// What they are for.
    pub part: Part,
    /// How they are stored.
    pub form: Form,
    /// What of them one of several devices holds.
    pub division: Division,
    /// Whether they belong to multi-token-prediction layers.
    pub mtp: bool,
}

impl TensorGroup {
    /// Tensors in the group.
    #[must_use]
    pub fn count(&self) -> u128 {
        wide(self.layers.len()) * wide(self.experts)
    }

    /// Elements of one tensor.
    #[must_use]
    pub fn elements_of_one(&self) -> u128 {
        self.shape.iter().copied().map(wide).product()
    }

    /// Elements of all tensors in the group.
    #[must_use]
    pub fn elements(&self) -> u128 {
        self.count() * self.elements_of_one()
    }

    /// The name of one of the tensors.
    #[must_use]
    pub fn name(&self, layer: usize, expert: usize) -> String {
        let name = self.pattern.replace("{layer}", &layer.to_string());
        if self.part == Part::RoutedExperts {
            return name.replace("{expert}", &expert.to_string());
        }
        name
    }

    /// The tensors one by one.
    pub fn entries(&self) -> impl Iterator<Item = TensorEntry> + '_ {
        let expert_ids = |layer| (0..self.experts).map(move |expert| (layer, expert));
        self.layers.clone().flat_map(expert_ids).map(|(layer, expert)| TensorEntry {
            name: self.name(layer, expert),
            shape: self.shape.clone(),
            part: self.part,
            form: self.form,
            mtp: self.mtp,
        })
    }
}

impl Config {
    /// Every tensor of a checkpoint before quantisation.
    #[must_use]
    pub fn inventory(&self) -> Vec<TensorEntry> {
        self.tensor_groups().iter().flat_map(TensorGroup::entries).collect()
    }

    /// The same in groups: cheap, whatever the sizes.
    #[must_use]
    pub fn tensor_groups(&self) -> Vec<TensorGroup> {
        match self {
            Self::Glm4Moe(config) => config.tensor_groups(),
            Self::Glm4MoeLite(config) => config.tensor_groups(),
        }
    }
}

impl Skeleton {
    /// The tensors of a model whose layers have what `attention` adds to them.
    pub(crate) fn tensor_groups(&self, attention: impl Fn(&mut LayerGroups)) -> Vec<TensorGroup> {
        let (hidden, layers) = (self.hidden_size, self.num_hidden_layers);
        let dense = self.dense_layers();
        let mut tables = LayerGroups { prefix: "", layers: 0..1, mtp: false, groups: Vec::new() };
        let table = [self.vocab_size, hidden];
        tables.plain("model.embed_tokens.weight", &table, Part::Embedding);
        if !self.tie_word_embeddings {
            tables.matrix("lm_head", table, Part::Head, Division::Whole);
        }
        tables.norm("model.norm", hidden);
        let mut groups = tables.groups;

        let end = layers + self.num_nextn_predict_layers;
        for (layers, has_experts, mtp) in
            [(0..dense, false, false), (dense..layers, true, false), (layers..end, true, true)]
        {
            let prefix = "model.layers.{layer}.";
            let mut layer = LayerGroups { prefix, layers, mtp, groups: Vec::new() };
            layer.norm("input_layernorm", hidden);
            layer.norm("post_attention_layernorm", hidden);
            attention(&mut layer);
            match has_experts {
                true => self.experts(&mut layer),
                false => {
                    layer.mlp("mlp", [hidden, self.intermediate_size], Part::DenseMlp);
                }
            }
            if mtp {
                self.prediction(&mut layer);
            }
            groups.append(&mut layer.groups);
        }
        groups.retain(|group| group.count() > 0);
        groups
    }

    fn experts(&self, layer: &mut LayerGroups) {
        let (hidden, experts) = (self.hidden_size, self.n_routed_experts);
        layer.plain("mlp.gate.weight", &[experts, hidden], Part::Router);
        layer.add("mlp.gate.e_score_correction_bias", &[experts], Part::Router, Form::Wide);
        let routed = [hidden, self.moe_intermediate_size];
        let added = layer.mlp("mlp.experts.{expert}", routed, Part::RoutedExperts);
        for group in added {
            (group.experts, group.division) = (experts, Division::Experts);
        }
        let shared = [hidden, self.moe_intermediate_size * self.n_shared_experts];
        layer.mlp("mlp.shared_experts", shared, Part::SharedExpert);
    }

    fn prediction(&self, layer: &mut LayerGroups) {
        let (hidden, table) = (self.hidden_size, [self.vocab_size, self.hidden_size]);
        for name in ["enorm.weight", "hnorm.weight", "shared_head.norm.weight"] {
            layer.plain(name, &[hidden], Part::Prediction);
        }
        layer.matrix("eh_proj", [hidden, 2 * hidden], Part::Prediction, Division::Whole);
        layer.plain("embed_tokens.weight", &table, Part::Embedding);
        layer.matrix("shared_head.head", table, Part::Head, Division::Whole);
    }
}

/// Collects the tensors of layers of one kind.
#[derive(Debug)]
pub(crate) struct LayerGroups {
    prefix: &'static str,
    layers: Range<usize>,
    mtp: bool,
    groups: Vec<TensorGroup>,
}

impl LayerGroups {
    /// The weight of a norm.
    pub(crate) fn norm(&mut self, name: &str, width: usize) {
        self.plain(&format!("{name}.weight"), &[width], Part::Norm);
    }

    /// The weight `[out, in]` of a linear layer.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        shape: [usize; 2],
        part: Part,
        division: Division,
    ) -> &mut TensorGroup {
        let group = self.add(&format!("{name}.weight"), &shape, part, Form::Matrix);
        group.division = division;
        group
    }

    /// The bias of a linear layer of attention, as long as its output.
    pub(crate) fn bias(&mut self, name: &str, out: usize, division: Division) {
        let group = self.add(&format!("{name}.bias"), &[out], Part::Attention, Form::Plain);
        group.division = division;
    }

    /// The three projections of a feed-forward network of `[hidden, width]`.
    fn mlp(&mut self, name: &str, [hidden, width]: [usize; 2], part: Part) -> &mut [TensorGroup] {
        let first = self.groups.len();
        for (projection, shape) in [
            ("gate_proj", [width, hidden]),
            ("up_proj", [width, hidden]),
            ("down_proj", [hidden, width]),
        ] {
            self.matrix(&format!("{name}.{projection}"), shape, part, Division::Width);
        }
        &mut self.groups[first..]
    }

    fn plain(&mut self, name: &str, shape: &[usize], part: Part) {
        self.add(name, shape, part, Form::Plain);
    }

    fn add(&mut self, name: &str, shape: &[usize], part: Part, form: Form) -> &mut TensorGroup {
        self.groups.push(TensorGroup {
            pattern: format!("{}{name}", self.prefix),
            layers: self.layers.clone(),
            experts: 1,
            shape: shape.to_vec(),
            part,
            form,
            division: Division::Whole,
            mtp: self.mtp,
        });
        self.groups.last_mut().expect("just added")
    }
}

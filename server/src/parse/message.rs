use super::Part;

/// A whole answer of the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The thought.
    pub reasoning: String,
    /// What is said to the reader.
    pub text: String,
    /// In the model's order.
    pub calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Name of a tool.
    pub name: String,
    /// JSON of an object; the beginning of one where the answer was cut short.
    pub arguments: String,
    /// Whether its end was seen.
    pub complete: bool,
}

impl Message {
    /// Adds the next part.
    pub fn add(&mut self, part: Part) {
        match part {
            Part::Reasoning(text) => self.reasoning.push_str(&text),
            Part::Text(text) => self.text.push_str(&text),
            Part::Call { name } => {
                self.calls.push(ToolCall { name, arguments: String::new(), complete: false });
            }
            Part::Arguments(text) => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments.push_str(&text);
                }
            }
            Part::CallEnd => {
                if let Some(call) = self.calls.last_mut() {
                    call.complete = true;
                }
            }
        }
    }
}

impl Extend<Part> for Message {
    fn extend<T: IntoIterator<Item = Part>>(&mut self, parts: T) {
        parts.into_iter().for_each(|part| self.add(part));
    }
}

//! The registry of controllers.

use eas_ir::{DuplicatePlugin, Plugin, Registry};

use crate::controller::Controller;

/// A registered controller: `inventory::submit! { ControllerPlugin(Plugin::new(..)) }`.
#[derive(Debug)]
pub struct ControllerPlugin(pub Plugin<dyn Controller>);

inventory::collect!(ControllerPlugin);

/// Every linked controller.
///
/// # Errors
/// Two of one name.
pub fn controllers() -> Result<Registry<dyn Controller>, DuplicatePlugin> {
    let linked = inventory::iter::<ControllerPlugin>.into_iter().map(|plugin| &plugin.0);
    Registry::collect("controller", linked)
}

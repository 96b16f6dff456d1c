//! Containers for tests and loads: cgroups as runtimes make them, and a real Docker with an image.

mod cgroup;
mod docker;
mod image;

pub use cgroup::TestCgroup;
pub use docker::{Docker, IMAGE};
pub use image::tar as image;

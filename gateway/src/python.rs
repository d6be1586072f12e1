//! The thin skin: the module `portico._gateway`.

use pyo3::prelude::*;

#[pymodule]
fn _gateway(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}

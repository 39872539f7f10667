package tenant

import (
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// debug is what all pods of a tunnel are allowed. What is not said, or not known, is not allowed.
func debug(d *v1alpha1.Debug) *wire.Debug {
	if d == nil {
		return nil
	}
	out := wire.Debug{Capture: d.Capture == v1alpha1.DebugAllowed, Bench: d.Bench == v1alpha1.DebugAllowed}
	if out == (wire.Debug{}) {
		return nil
	}
	return &out
}

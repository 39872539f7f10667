package tenant

import (
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func TestDebug(t *testing.T) {
	for _, c := range []struct {
		of   *v1alpha1.Debug
		want wire.Debug
	}{
		{nil, wire.Debug{}},
		{&v1alpha1.Debug{}, wire.Debug{}},
		{&v1alpha1.Debug{Capture: v1alpha1.DebugForbidden, Bench: v1alpha1.DebugForbidden}, wire.Debug{}},
		{&v1alpha1.Debug{Capture: "allowed", Bench: "Yes"}, wire.Debug{}},
		{&v1alpha1.Debug{Capture: v1alpha1.DebugAllowed}, wire.Debug{Capture: true}},
		{&v1alpha1.Debug{Bench: v1alpha1.DebugAllowed}, wire.Debug{Bench: true}},
	} {
		got := debug(c.of)
		if got == nil && c.want != (wire.Debug{}) || got != nil && (*got != c.want || *got == wire.Debug{}) {
			t.Errorf("%+v: %+v, want %+v", c.of, got, c.want)
		}
	}
}

package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// unsaid is the version of members that say none: they are older than that.
const unsaid = "an older version"

// skew says which members have another version than the operator; empty: none has, or the operator does not say its own. Who has not
// registered has no version yet.
func (t *tunnelReport) skew() string {
	if t.Version == "" {
		return ""
	}
	others := map[string]int{}
	for i := range t.Members {
		if m := &t.Members[i]; m.PublicKey != "" && m.Version != t.Version {
			others[cmp.Or(m.Version, unsaid)]++
		}
	}
	if len(others) == 0 {
		return ""
	}
	counts := make([]string, 0, len(others))
	for _, v := range slices.Sorted(maps.Keys(others)) {
		counts = append(counts, fmt.Sprintf("%d of %s", others[v], v))
	}
	return fmt.Sprintf("the operator is %s, and of its %d members there are %s: they get its version when their pods are restarted",
		t.Version, len(t.Members), strings.Join(counts, ", "))
}

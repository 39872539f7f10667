// Command gen writes manifests/install.yaml: the CRDs, the operator's role and everything else that an installation is, in the
// order in which it has to be applied. Run it from the repository's root.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// pieces are concatenated in this order: a namespace comes before what is in it, the webhook last.
var pieces = []string{
	"operator/00-namespace.yaml", "crds/*.yaml", "operator/10-account.yaml", "rbac/role.yaml", "operator/20-tenants.yaml",
	"operator/25-gateways.yaml", "operator/30-operator.yaml", "operator/40-webhook.yaml",
}

func main() { os.Exit(run()) }

func run() int {
	out, err := install("manifests")
	if err == nil {
		err = os.WriteFile(filepath.Join("manifests", "install.yaml"), out, 0o644) //nolint:gosec // a manifest is for everybody
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		return 1
	}
	return 0
}

func install(dir string) ([]byte, error) {
	out := bytes.NewBufferString("# Made by `go run ./manifests/gen`; change the pieces instead.\n")
	for _, pattern := range pieces {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("find %s: no such file (%w)", pattern, err)
		}
		for _, f := range files { // Glob sorts
			b, err := os.ReadFile(f) //nolint:gosec // one of pieces
			if err != nil {
				return nil, fmt.Errorf("read piece: %w", err)
			}
			out.WriteString("---\n")
			out.Write(bytes.TrimPrefix(b, []byte("---\n")))
		}
	}
	return out.Bytes(), nil
}

// Command gen writes manifests/install.yaml: the CRDs, the operator's role and everything else that an installation is, in the
// order in which it has to be applied; and the same as the Helm chart's templates. docs/api.md describes the CRDs' fields. Run it from the
// repository's root.
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
	if err := generate("manifests"); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		return 1
	}
	return 0
}

func generate(dir string) error {
	files, err := chartFiles(dir)
	if err != nil {
		return err
	}
	if files["install.yaml"], err = install(dir); err != nil {
		return err
	}
	if files["../docs/api.md"], err = reference(dir); err != nil {
		return err
	}
	return write(dir, files)
}

func install(dir string) ([]byte, error) {
	out := bytes.NewBufferString("# Made by `go run ./manifests/gen`; change the pieces instead.\n")
	for _, pattern := range pieces {
		b, err := concat(dir, pattern)
		if err != nil {
			return nil, err
		}
		out.Write(b)
	}
	return out.Bytes(), nil
}

// concat is all manifests of a pattern.
func concat(dir, pattern string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find %s: no such file (%w)", pattern, err)
	}
	var out bytes.Buffer
	for _, f := range files { // Glob sorts
		b, err := os.ReadFile(f) //nolint:gosec // one of pieces
		if err != nil {
			return nil, fmt.Errorf("read piece: %w", err)
		}
		out.WriteString("---\n")
		out.Write(bytes.TrimPrefix(b, []byte("---\n")))
	}
	return out.Bytes(), nil
}

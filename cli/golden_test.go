package cli

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the wanted parts of testdata/*.txtar")

// golden compares parts with those of a file, which has all of them and no others.
func golden(t *testing.T, file string, parts []txtar.File) {
	t.Helper()
	want, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := &txtar.Archive{Comment: want.Comment, Files: parts}
	for i := range parts {
		if !bytes.HasSuffix(parts[i].Data, []byte("\n")) {
			t.Fatalf("%s does not end its last line", parts[i].Name)
		}
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(txtar.Format(want)), string(txtar.Format(got))); diff != "" {
		t.Errorf("%s (go test ./cli -update rewrites it): -want +got\n%s", file, diff)
	}
}

// try runs a command line that asks nothing of a cluster.
func try(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Run(t.Context(), "test", args, Streams{In: strings.NewReader(""), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

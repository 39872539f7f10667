package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// TestInteropExamples gives every example file to sidecar --check, with new keys beside it.
func TestInteropExamples(t *testing.T) {
	needLab(t)
	examples, err := filepath.Glob("../../manifests/examples/static/*.yaml")
	must(t, "find examples", err)
	if len(examples) == 0 {
		t.Fatal("no examples")
	}
	for _, example := range examples {
		t.Run(filepath.Base(example), func(t *testing.T) {
			dir := t.TempDir()
			text, err := os.ReadFile(example)
			must(t, "read", err)
			for line := range strings.Lines(string(text)) {
				name, file, _ := strings.Cut(strings.TrimSpace(line), ": ")
				if strings.HasSuffix(name, "KeyFile") {
					must(t, "write key", os.WriteFile(filepath.Join(dir, file), []byte(key.NewPrivate().Reveal()), 0o600))
				}
			}
			at := filepath.Join(dir, "sidecar.yaml")
			must(t, "copy", os.WriteFile(at, text, 0o644))
			if out, err := exec.Command(programs.sidecar, "--config", at, "--check").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			must(t, "spoil", os.WriteFile(at, append(text, "surprise: 1\n"...), 0o644))
			if out, err := exec.Command(programs.sidecar, "--config", at, "--check").CombinedOutput(); err == nil {
				t.Errorf("a spoilt file is good: %s", out)
			}
		})
	}
}

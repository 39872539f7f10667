package oci

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The kernel, not our reading of its header, says what the attribute means.
func TestNetAdminIsPermittedAndNotEffective(t *testing.T) {
	f := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(f, "security.capability", []byte(PermittedNetAdmin), 0); err != nil {
		t.Skipf("set a file capability: %v: it takes CAP_SETFCAP and a file system that has them. NOT TESTED: what the kernel makes of ours", err)
	}
	getcap, err := exec.LookPath("getcap")
	if err != nil {
		t.Skip("getcap is not installed (libcap2-bin). NOT TESTED: what it says of our file capability")
	}
	out, err := exec.CommandContext(t.Context(), getcap, f).Output()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "cap_net_admin=p") {
		t.Errorf("got %q, %v; want cap_net_admin=p", out, err)
	}
}

func TestOnlyTheNamedFileHasTheCapability(t *testing.T) {
	source := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(source, []byte("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := layerTar([]File{{source, "a", false}, {source, "b", true}}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		got[h.Name] = h.PAXRecords[CapabilityRecord]
	}
	if len(got) != 2 || got["a"] != "" || got["b"] != PermittedNetAdmin {
		t.Errorf("got %q", got)
	}
}

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// store is the memory-backed directory that survives a restart of the sidecar and goes with the pod.
type store struct{ dir string }

// saved is the last good configuration.
type saved struct {
	Revision string      `json:"revision"`
	Config   wire.Config `json:"config"`
}

func openStore(dir string) (*store, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("open state directory: %s is not a directory", dir)
	}
	return &store{dir}, nil
}

// key returns the pod's private key, made on the first start. A key file that cannot be used is an error and never replaced: the
// member is known by it.
func (s *store) key() (key.Private, error) {
	path := filepath.Join(s.dir, "key")
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		k, err := key.ParsePrivate(string(b))
		if err != nil {
			return key.Private{}, fmt.Errorf("read %s: %w", path, err)
		}
		return k, nil
	case !errors.Is(err, fs.ErrNotExist):
		return key.Private{}, fmt.Errorf("read private key: %w", err)
	}
	k := key.NewPrivate()
	if err := s.write("key", []byte(k.Reveal())); err != nil {
		return key.Private{}, fmt.Errorf("keep private key: %w", err)
	}
	return k, nil
}

// load returns the last good configuration; false when there is none that can be used.
func (s *store) load() (saved, bool) {
	var v saved
	b, err := os.ReadFile(filepath.Join(s.dir, "config.json"))
	if err != nil || json.Unmarshal(b, &v) != nil || v.Revision == "" || v.Config.Validate() != nil {
		return saved{}, false
	}
	return v, true
}

// save keeps a configuration for the next start; an empty revision forgets it.
func (s *store) save(v saved) error {
	if v.Revision == "" {
		if err := os.Remove(filepath.Join(s.dir, "config.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget configuration: %w", err)
		}
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	if err := s.write("config.json", b); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	return nil
}

// write replaces a file whole or not at all, readable by us alone.
func (s *store) write(name string, b []byte) error {
	f, err := os.CreateTemp(s.dir, "."+name+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

package controller

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// defaultBackend is the backend of a StorageClass that names none, and of a
	// volume id without a backend.
	defaultBackend = "default"

	// namePrefix begins the name of every app instance made for CSI, as it did in
	// the vendor's driver.
	namePrefix = "CSI-"

	maxArrayName = 64 // characters of an app instance's name
	maxID        = 128
	hashLength   = 26 // base32 digits of 128 bits
)

// volumeID names a volume of a backend: `[BACKEND/]APP_INSTANCE_NAME`.
type volumeID struct {
	Backend string
	Name    string // of the app instance
}

// String is the one spelling of the id; locks rely on that.
func (id volumeID) String() string {
	if id.Backend == defaultBackend {
		return id.Name
	}
	return id.Backend + "/" + id.Name
}

// parseVolumeID is the inverse of String. It takes the name of any app instance,
// whoever made it, so that static PersistentVolumes work.
func parseVolumeID(s string) (volumeID, error) {
	if err := checkText("volume id", s); err != nil {
		return volumeID{}, err
	}
	id := volumeID{Backend: defaultBackend, Name: s}
	if backend, name, ok := strings.Cut(s, "/"); ok {
		id = volumeID{Backend: backend, Name: name}
		if err := checkBackendName(backend); err != nil {
			return volumeID{}, fmt.Errorf("volume id %q: %w", s, err)
		}
		if backend == defaultBackend {
			return volumeID{}, fmt.Errorf("volume id %q: the backend %q is not written in an id; use %q", s, backend, name)
		}
	}
	if !appInstancePattern.MatchString(id.Name) {
		return volumeID{}, fmt.Errorf("volume id %q: %q cannot be the name of an app instance: letters, digits, '_', '-' and '.', 3 to %d of them", s, id.Name, maxArrayName)
	}
	return id, nil
}

// checkText refuses what no name or id of ours may hold, before it meets a path.
func checkText(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is missing", what)
	case len(s) > maxID:
		return fmt.Errorf("%s is %d bytes long, at most %d are allowed (CSI v1.13, \"Size Limits\")", what, len(s), maxID)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s %q is not UTF-8", what, s)
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%s %q holds control characters", what, s)
	case strings.Contains(s, ".."):
		return fmt.Errorf("%s %q holds \"..\"", what, s)
	}
	return nil
}

// appInstanceName is the array's name for a CSI volume name. It is a function of
// the CSI name alone, so a retried or replayed CreateVolume finds its own volume,
// and no two CSI names share one: what does not fit gets a hash of the whole name,
// and so does a name that looks as if it had one already.
func appInstanceName(csiName string) string {
	plain := namePrefix + csiName
	if appInstancePattern.MatchString(plain) && !hashedPattern.MatchString(csiName) {
		return plain
	}
	sum := sha256.Sum256([]byte(csiName))
	hash := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
	readable := unfitPattern.ReplaceAllString(csiName, "-")
	room := maxArrayName - len(namePrefix) - len("-") - hashLength
	if len(readable) > room {
		readable = readable[:room]
	}
	readable = strings.ReplaceAll(readable, "..", "--") // never made, yet a ".." would make an id we refuse
	return namePrefix + strings.Trim(readable, "-.") + "-" + hash
}

// The array's patterns (NAME, DESCR), for v2.2 and later. App instances may also
// be named by a uuid, which may begin with a digit.
var (
	appInstancePattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{2,63}$`)
	objectPattern      = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]{2,63}$`)
	backendPattern     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
	hashedPattern      = regexp.MustCompile(`(^|-)[0-9a-v]{26}$`)
	unfitPattern       = regexp.MustCompile(`[^a-zA-Z0-9_.-]+`)
	uuidPattern        = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// checkBackendName takes what a Kubernetes Secret or directory may be called, as far
// as the longest id of a snapshot stays one that CSI allows.
func checkBackendName(s string) error {
	if !backendPattern.MatchString(s) {
		return fmt.Errorf("%q cannot be the name of a backend: lower-case letters, digits and '-', 1 to 40 of them", s)
	}
	return nil
}

// checkObjectName takes what the array lets a pool, policy or template be called.
func checkObjectName(s string) error {
	if !objectPattern.MatchString(s) || strings.Contains(s, "..") {
		return errors.New("is not a name: a letter or '_', then letters, digits, '_', '-' and '.', 3 to 64 in all")
	}
	return nil
}

// description tells an administrator of the array whose volume this is, within
// what the array accepts: letters, digits, '_', '-', '.', space; 3 to 128.
func description(p parameters, m marks) string {
	var words []string
	add := func(label, value string) {
		if value != "" {
			words = append(words, label, unfitPattern.ReplaceAllString(value, "-"))
		}
	}
	add("PVC", p.PVC)
	add("namespace", p.Namespace)
	add("PV", p.PV)
	return withMarks(strings.Join(words, " "), m)
}

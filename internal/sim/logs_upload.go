package sim

import (
	"errors"
	"io"
)

const maxUpload = 256 << 20

func (a *Array) logRoutes() []route {
	return []route{{path: "/logs_upload", gate: gate{from: v22}, ops: map[string]op{
		"PUT": {do: keepLogs, raw: readUpload, anyone: true, descr: "take in the logs of an ecosystem's driver"}}}}
}

// readUpload reads the parts of an upload: texts and one archive, of which only
// the size matters.
func readUpload(r *request) error {
	parts, err := r.http.MultipartReader()
	if err != nil {
		return errRefused("the request body is not multipart/form-data: %v", err)
	}
	r.body = body{}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errRefused("read the upload: %v", err)
		}
		name := part.FormName()
		switch {
		case part.FileName() != "":
			size, err := io.Copy(io.Discard, io.LimitReader(part, maxUpload))
			if err != nil {
				return errRefused("read the upload: %v", err)
			}
			r.body["file"], r.body["bytes"] = part.FileName(), size
		case name == "ecosystem" || name == "folder_name":
			raw, err := io.ReadAll(io.LimitReader(part, 1024))
			if err != nil {
				return errRefused("read the upload: %v", err)
			}
			r.body[name] = string(raw)
		default:
			return errValidation(name + ": additional properties are not allowed")
		}
	}
	if !r.body.has("file") || !r.body.has("ecosystem") {
		return errValidation("ecosystem and a file are required")
	}
	return nil
}

func keepLogs(r *request) (any, error) {
	return object{{"ecosystem", r.body.str("ecosystem")}, {"file", r.body.str("file")}, {"bytes", r.body.int("bytes")}}, nil
}

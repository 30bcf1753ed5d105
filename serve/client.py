"""Client for a server with access control.  For others, Vizier's own `clients` suffice."""

from vizier import pyvizier as vz
from vizier._src.pyvizier.oss.proto_converters import ParameterConfigConverter
from vizier._src.service import resources, study_pb2, vizier_client, vizier_service_pb2, vizier_service_pb2_grpc
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer.serve.channels import Credentials, connect

_CLIENT = "unused"  # every `Study.suggest` names its own


class Service:
    """A Vizier service at an address.  Usable as a context manager:

        with Service("tuning.example.org:28080", token=token, authorities=pem) as service:
            study = service.study(config, owner="me", study_id="resnet")
            for trial in study.suggest(count=4, client_id="worker 1"): ...

    Closing it changes nothing in the studies.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        token: str | None = None,
        authorities: bytes | None = None,
        certificate: bytes | None = None,
        key: bytes | None = None,
        timeout: float = 10.0,
    ):
        """
        Args:
          endpoint: HOST:PORT.
          token: the token in the server's token file; None: the server needs none.
          authorities: CA certificates (PEM), one of which must have signed the server's certificate; None: no TLS.
          certificate: this caller's certificate (PEM), if the server asks for one.
          key: private key of the certificate (PEM).
          timeout: seconds to wait for the server.

        Raises:
          OSError: the server does not answer.
        """
        self._connection = connect(endpoint, Credentials(token, authorities, certificate, key), timeout)
        self.stub = vizier_service_pb2_grpc.VizierServiceStub(self._connection.channel)

    def study(self, config: svz.StudyConfig, *, owner: str, study_id: str) -> clients.Study:
        """The study of that name, created if it does not exist.  Raises grpc.RpcError if the server refuses."""
        spec = config.to_proto()
        for proto, parameter in zip(spec.parameters, config.search_space.parameters, strict=True):
            _restore_children(proto, parameter)
        study = study_pb2.Study(display_name=study_id, study_spec=spec)
        parent = resources.OwnerResource(owner).name
        made = self.stub.CreateStudy(vizier_service_pb2.CreateStudyRequest(parent=parent, study=study))
        return self.load(made.name)

    def load(self, name: str) -> clients.Study:
        """A study by its resource name, owners/OWNER/studies/STUDY."""
        return clients.Study(vizier_client.VizierClient(name, _CLIENT, self.stub))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _restore_children(proto: study_pb2.StudySpec.ParameterSpec, parameter: vz.ParameterConfig) -> None:
    """Adds the children of children, which Vizier's own conversion (0.1.24) loses."""
    for written, child in zip(proto.conditional_parameter_specs, parameter.child_parameter_configs, strict=True):
        if child.child_parameter_configs:
            ParameterConfigConverter._set_child_parameter_configs(written.parameter_spec, child)
            _restore_children(written.parameter_spec, child)

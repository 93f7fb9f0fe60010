from logstore import errors as errors
from logstore.base.tls import TlsOptions as TlsOptions
from logstore.base.types import Ack as Ack
from logstore.base.types import Placed as Placed
from logstore.base.types import Record as Record
from logstore.client.client import Client as Client
from logstore.client.client import Log as Log
from logstore.client.client import Scan as Scan
from logstore.client.client import connect as connect
from logstore.client.options import CreateLogOptions as CreateLogOptions
from logstore.client.options import PlaceOptions as PlaceOptions
from logstore.client.options import ReadOptions as ReadOptions
from logstore.client.options import TailOptions as TailOptions
from logstore.client.results import Records as Records
from logstore.client.results import Results as Results
from logstore.client.sync_base import SyncRecords as SyncRecords
from logstore.client.sync_base import SyncResults as SyncResults
from logstore.client.sync_client import SyncClient as SyncClient
from logstore.client.sync_client import SyncLog as SyncLog
from logstore.client.sync_client import SyncScan as SyncScan
from logstore.client.sync_client import connect_sync as connect_sync

__all__: list[str]
__version__: str

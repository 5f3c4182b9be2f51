"""What a label map is like, and what it must obey; pairs measure by it, selection rejects by it.

facts   a label map -> volumes, pieces, holes, contacts, places, third-class voxels
rules   what anatomy says and what real cases teach, judged on these facts
"""
